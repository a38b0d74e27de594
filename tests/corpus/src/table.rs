//! The table of kernels, and cases made from it.
use crate::case::Case;
use crate::setup::Setup;
use std::fmt;
use std::fmt::Write as _;

/// How much work a case is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Size {
    /// Enough for every path through the kernel; for correctness.
    Small,
    /// Ten to two hundred million thread-instructions or so; for speed.
    Large,
}

impl Size {
    pub(crate) fn pick<T>(self, small: T, large: T) -> T {
        match self {
            Self::Small => small,
            Self::Large => large,
        }
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.pick("small", "large"))
    }
}

/// Something beyond plain loads, stores, arithmetic and barriers that a kernel asks of whatever
/// runs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// mma.sync and ldmatrix.
    TensorCore,
    /// wmma.load, wmma.mma, wmma.store.
    Wmma,
    /// cp.async.
    AsyncCopy,
    /// mbarrier.
    Mbarrier,
    /// Blocks wait for blocks that took an earlier ticket: earlier starters must go on while later
    /// ones spin.
    Progress,
    /// Every block of the grid has to be resident at once.
    Resident,
    /// A cooperative launch, with the workspace address in `%envreg1` and `%envreg2`.
    Cooperative,
    /// Lanes of one warp contend for a lock: the holder must be scheduled although others spin.
    Fairness,
    /// Indirect calls through function addresses held in module variables or registers.
    IndirectCall,
    /// A branch through a table (brx.idx).
    BranchTable,
    /// Functions that call themselves.
    Recursion,
    /// `ld.param` through a register that holds a parameter's address.
    ParamAddress,
    /// Atomics or moves of 128 bits (`.b128`).
    Wide128,
    /// fp8 conversions.
    Fp8,
    /// The text says `.target sm_90a`.
    Sm90a,
}

impl Need {
    fn word(self) -> &'static str {
        match self {
            Self::TensorCore => "mma",
            Self::Wmma => "wmma",
            Self::AsyncCopy => "cp.async",
            Self::Mbarrier => "mbarrier",
            Self::Progress => "progress between blocks",
            Self::Resident => "all blocks resident",
            Self::Cooperative => "cooperative launch",
            Self::Fairness => "fairness in a warp",
            Self::IndirectCall => "indirect calls",
            Self::BranchTable => "brx.idx",
            Self::Recursion => "recursion",
            Self::ParamAddress => "ld.param through a register",
            Self::Wide128 => "b128",
            Self::Fp8 => "fp8",
            Self::Sm90a => "sm_90a text",
        }
    }
}

/// One entry point of the corpus.
pub struct Kernel {
    /// Its name in the corpus, unique.
    pub name: &'static str,
    /// File below `tests/kernels/ptx`.
    pub file: &'static str,
    /// Entry point in the PTX (numba mangles it; elsewhere it is the name).
    pub entry: &'static str,
    /// What it does, one line.
    pub about: &'static str,
    /// What it asks of an executor.
    pub needs: &'static [Need],
    /// The PTX text.
    pub ptx: &'static str,
    pub(crate) make: fn(Size) -> Setup,
}

impl fmt::Debug for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kernel")
            .field("name", &self.name)
            .field("file", &self.file)
            .finish_non_exhaustive()
    }
}

impl Kernel {
    /// The case of this size. Large ones take up to some hundred milliseconds to make.
    #[must_use]
    pub fn case(&'static self, size: Size) -> Case {
        let Setup { launch, args, buffers, expects } = (self.make)(size);
        Case { kernel: self, size, launch, args, buffers, expects }
    }
}

/// Declares a theme's kernels: `name in file "about" [needs] make` or `name = "entry" in file …`.
macro_rules! entries {
    ($(
        $name:ident $(= $entry:literal)? in $file:ident
            $about:literal [$($need:ident),*] $make:expr;
    )*) => {
        pub(crate) static KERNELS: &[$crate::table::Kernel] = &[$(
            $crate::table::Kernel {
                name: stringify!($name),
                file: concat!(stringify!($file), ".ptx"),
                entry: $crate::table::entries!(@entry $name $($entry)?),
                about: $about,
                needs: &[$($crate::table::Need::$need),*],
                ptx: include_str!(concat!("../../kernels/ptx/", stringify!($file), ".ptx")),
                make: $make,
            },
        )*];
    };
    (@entry $name:ident $entry:literal) => { $entry };
    (@entry $name:ident) => { stringify!($name) };
}
pub(crate) use entries;

const THEMES: &[(&str, &[Kernel])] = &[
    ("Vectors", crate::linear::KERNELS),
    ("Reductions and scans", crate::scan::KERNELS),
    ("Matrix products", crate::gemm::KERNELS),
    ("Tensor cores", crate::tensor::KERNELS),
    ("Grids", crate::grid::KERNELS),
    ("Networks", crate::nn::KERNELS),
    ("Sorting", crate::sort::KERNELS),
    ("Graphs, sparse data, pointers", crate::graph::KERNELS),
    ("Numerics", crate::numeric::KERNELS),
    ("Bytes and bits", crate::bytes::KERNELS),
    ("Synchronisation and asynchronous copies", crate::sync::KERNELS),
    ("Warps", crate::warp::KERNELS),
    ("Calls and branches", crate::calls::KERNELS),
    ("Variables, parameters, special registers", crate::variables::KERNELS),
    ("Opcode families: integers", crate::integers::KERNELS),
    ("Opcode families: bits", crate::bits::KERNELS),
    ("Opcode families: predicates", crate::predicates::KERNELS),
    ("Opcode families: f32 and f64", crate::floats::KERNELS),
    ("Opcode families: f16 and bf16", crate::halves::KERNELS),
    ("Opcode families: conversions", crate::convert::KERNELS),
    ("Opcode families: memory", crate::memory::KERNELS),
    ("Opcode families: atomics", crate::atomics::KERNELS),
    ("Triton and numba", crate::foreign::KERNELS),
];

/// Every kernel, grouped by theme.
pub fn kernels() -> impl Iterator<Item = &'static Kernel> {
    THEMES.iter().flat_map(|(_, kernels)| kernels.iter())
}

/// The kernel of this name.
#[must_use]
pub fn find(name: &str) -> Option<&'static Kernel> {
    kernels().find(|kernel| kernel.name == name)
}

/// One small case for every kernel, for correctness.
#[must_use]
pub fn cases() -> Vec<Case> {
    kernels().map(|kernel| kernel.case(Size::Small)).collect()
}

/// One large case for every kernel, for speed. They hold a few hundred megabytes together: prefer
/// [`Kernel::case`] one at a time.
#[must_use]
pub fn large_cases() -> Vec<Case> {
    kernels().map(|kernel| kernel.case(Size::Large)).collect()
}

/// The tables of `docs/kernels.md`.
#[must_use]
pub fn markdown() -> String {
    let mut out = String::new();
    for (theme, kernels) in THEMES {
        let _ = write!(
            out,
            "## {theme}\n\n| kernel | file | what it does | asks for |\n|---|---|---|---|\n"
        );
        for kernel in *kernels {
            let needs: Vec<_> = kernel.needs.iter().map(|need| need.word()).collect();
            let _ = writeln!(
                out,
                "| {} | {} | {} | {} |",
                kernel.name,
                kernel.file,
                kernel.about,
                needs.join(", ")
            );
        }
        out.push('\n');
    }
    out.push_str("## Attacks\n\n| file | what it tries | the guard must |\n|---|---|---|\n");
    for attack in crate::attacks::attacks() {
        let _ = writeln!(out, "| {} | {} | {} |", attack.file, attack.about, attack.expect);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::case::{Arg, Mismatch, Role};
    use std::collections::HashSet;
    use std::path::Path;

    /// `scripts/ptx-cost` guards each kernel for what it is launched with.
    #[test]
    fn the_list_of_launches_is_that_of_the_large_cases() {
        let line = |case: Case| {
            let ([x, y, z], shared) = (case.launch.block, case.launch.shared);
            let file = case.kernel.file.trim_end_matches(".ptx");
            format!("{file} {} {x},{y},{z} {shared}\n", case.kernel.entry)
        };
        let want: String = large_cases().into_iter().map(line).collect();
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../kernels/launches.txt");
        let found = std::fs::read_to_string(path).unwrap();
        assert_eq!(found, want, "write these lines to tests/kernels/launches.txt");
    }

    #[test]
    fn names_are_unique_and_entries_exist() {
        let mut seen = HashSet::new();
        for kernel in kernels() {
            assert!(seen.insert(kernel.name), "{} twice", kernel.name);
            assert!(
                kernel.ptx.contains(&format!(".entry {}(", kernel.entry)),
                "{} lacks its entry",
                kernel.name
            );
            assert_eq!(
                kernel.ptx.contains(".target sm_90a"),
                kernel.needs.contains(&Need::Sm90a),
                "{}",
                kernel.name
            );
        }
        assert!(seen.len() >= 40, "the issue asks for 40 kernels");
    }

    #[test]
    fn every_entry_of_every_file_has_a_case() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../kernels/ptx");
        let known: HashSet<_> =
            kernels().map(|k| (k.file.to_owned(), k.entry.to_owned())).collect();
        for file in std::fs::read_dir(folder).unwrap() {
            let path = file.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            for line in std::fs::read_to_string(&path).unwrap().lines() {
                if let Some((_, rest)) = line.split_once(".entry ") {
                    let entry = rest.trim_end_matches('(').trim().to_owned();
                    assert!(
                        known.contains(&(name.clone(), entry.clone())),
                        "{name}: {entry} has no case"
                    );
                }
            }
        }
    }

    /// Parameters of an entry in the PTX, as (bytes) in order.
    fn declared(kernel: &Kernel) -> Vec<usize> {
        let at = kernel.ptx.find(&format!(".entry {}(", kernel.entry)).unwrap();
        let text = &kernel.ptx[at..];
        let list = &text[text.find('(').unwrap() + 1..text.find("\n)").unwrap()];
        list.split(',')
            .filter(|p| p.contains(".param"))
            .map(|p| {
                let width = ["8", "16", "32", "64"].iter().find(|w| {
                    ["b", "u", "s", "f"]
                        .iter()
                        .any(|t| p.split_whitespace().any(|x| x == format!(".{t}{w}")))
                });
                let bytes: usize = width.unwrap().parse::<usize>().unwrap() / 8;
                let count = p
                    .split_once('[')
                    .map_or(1, |(_, n)| n.trim_end_matches([']', '\n']).parse().unwrap());
                bytes * count
            })
            .collect()
    }

    #[test]
    fn arguments_are_what_the_entry_declares() {
        for case in cases() {
            let got: Vec<usize> = case
                .args
                .iter()
                .map(|arg| match arg {
                    Arg::Buffer(_) => 8,
                    Arg::Value(bytes) => bytes.len(),
                })
                .collect();
            assert_eq!(got, declared(case.kernel), "{}", case.name());
        }
    }

    #[test]
    fn the_expected_bytes_pass_and_a_wrong_one_does_not() {
        for case in cases() {
            let mut outputs: Vec<Vec<u8>> =
                case.buffers.iter().map(|b| b.initial.clone()).collect();
            for expect in &case.expects {
                let start = expect.first * expect.element.size();
                outputs[expect.buffer][start..start + expect.values.len()]
                    .copy_from_slice(&expect.values);
            }
            case.check(&outputs).unwrap_or_else(|e| panic!("{}: {e}", case.name()));
            assert!(!case.expects.is_empty(), "{} checks nothing", case.name());
            for expect in &case.expects {
                let mut broken = outputs.clone();
                let at = expect.first * expect.element.size() + expect.values.len() - 1;
                // The last byte of an element holds sign and exponent: no tolerance forgives this.
                broken[expect.buffer][at] ^= 0x7f;
                assert!(
                    matches!(case.check(&broken), Err(Mismatch::Value { .. })),
                    "{}",
                    case.name()
                );
            }
            if let Some(i) =
                case.buffers.iter().position(|b| b.role == Role::Input && b.pointers.is_empty())
            {
                let mut broken = outputs.clone();
                broken[i][0] ^= 1;
                assert_eq!(case.check(&broken), Err(Mismatch::InputChanged { buffer: i, byte: 0 }));
            }
        }
    }

    #[test]
    fn untouched_outputs_do_not_pass() {
        for case in cases() {
            let initial: Vec<Vec<u8>> = case.buffers.iter().map(|b| b.initial.clone()).collect();
            assert!(case.check(&initial).is_err(), "{} passes without being run", case.name());
        }
    }

    #[test]
    fn the_page_lists_what_is_here() {
        let page = include_str!("../../../docs/kernels.md");
        assert!(
            page.contains(&markdown()),
            "docs/kernels.md is stale: cargo run -p turnstile-corpus --example table"
        );
    }
}
