//! The attacks as data: hand-written PTX in `tests/kernels/attacks`, each beginning with what it
//! tries and what the guard must make of it.
//!
//! Every module that can be loaded has one entry, `attack`, with two 64-bit parameters: the address
//! of a buffer of [`BUFFER_BYTES`] inside the arena, and a hostile value. It is launched once for
//! each value of [`HOSTILE`] (and for the arena's own limits, which the caller knows) with one
//! block of [`THREADS`] threads and no dynamic shared memory. A module that must run clean stores
//! the word `i + 1` at `buffer + 4 * i` for each thread `i`.
use std::fmt;

/// What must become of an attack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The module is refused when it is loaded, with file, line and reason.
    Refused,
    /// The module loads, and its guarded form runs to its end (or to the time limit) without a
    /// fault and without touching a byte outside its arena.
    Fenced,
    /// Not an attack but something unusual that must be let through and give the right result.
    RunsClean,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Refused => "refuse it",
            Self::Fenced => "fence it",
            Self::RunsClean => "let it run",
        })
    }
}

/// Entry point of every attack.
pub const ENTRY: &str = "attack";

/// Length of the buffer whose address is the first parameter, in bytes.
pub const BUFFER_BYTES: usize = 64 << 10;

/// Threads of the one block.
pub const THREADS: u32 = 64;

/// Values for the second parameter: small ones, powers of two and their neighbours, windows, all
/// ones.
pub const HOSTILE: [u64; 22] = [
    0,
    1,
    3,
    4,
    0x7f,
    0xffff,
    0x1_0000,
    0x0100_0000,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_fff0,
    0xffff_ffff,
    1 << 32,
    (1 << 32) + 5,
    1 << 40,
    (1 << 47) - 1,
    1 << 47,
    (1 << 49) - 16,
    1 << 63,
    u64::MAX - (1 << 32),
    u64::MAX - 15,
    u64::MAX,
];

/// One attack.
#[derive(Clone, Copy, Debug)]
pub struct Attack {
    /// File below `tests/kernels/attacks`.
    pub file: &'static str,
    /// What it tries, from the file's first line.
    pub about: &'static str,
    /// What the guard must do, from the file's second line.
    pub expect: Outcome,
    /// The text, which need not be valid, nor be text.
    pub text: &'static [u8],
}

macro_rules! files {
    ($($name:literal)*) => {
        const FILES: &[(&str, &[u8])] = &[$((
            concat!($name, ".ptx"),
            include_bytes!(concat!("../../kernels/attacks/", $name, ".ptx")),
        )),*];
    };
}

files! {
    "address_size_32"
    "alias"
    "assert"
    "atomics"
    "atomics_misaligned"
    "barrier_count"
    "barrier_divergent"
    "barrier_number"
    "barrier_register"
    "base_plus_2g"
    "branch_missing"
    "branch_other_function"
    "brkpt"
    "brx_negative"
    "brx_unclamped"
    "bulk_load"
    "bulk_prefetch"
    "bulk_reduce"
    "bulk_store"
    "bulk_tensor"
    "call_entry"
    "call_forged"
    "call_from_memory"
    "call_offset"
    "call_table_overrun"
    "call_table_written"
    "call_wrong_signature"
    "cluster_shared"
    "comments"
    "const_bank"
    "const_past_end"
    "const_too_much"
    "cp_async"
    "createpolicy_range"
    "deadlock_barrier"
    "deadlock_flag"
    "debug_sections"
    "discard"
    "endless"
    "endless_empty"
    "endless_half"
    "endless_stores"
    "entry_called_twice"
    "exit_in_function"
    "extern_function"
    "extern_launch"
    "extern_malloc"
    "extern_variable"
    "extern_vprintf"
    "fall_off"
    "future_target"
    "future_version"
    "generic_initialiser"
    "generic_initialiser_past_end"
    "generic_load"
    "generic_store"
    "generic_windows"
    "global_load"
    "global_store"
    "global_store_unconverted"
    "griddepcontrol"
    "guard_prefix_function"
    "guard_prefix_label"
    "guard_prefix_register"
    "guard_prefix_variable"
    "high_bits"
    "immediate_address"
    "jump_past_fence"
    "ldmatrix"
    "line_ends"
    "local_alloca"
    "local_misaligned"
    "local_negative"
    "local_range"
    "local_return_address"
    "local_too_much"
    "loop_carried"
    "malformed_address"
    "malformed_array"
    "malformed_array_product"
    "malformed_braces"
    "malformed_bytes"
    "malformed_duplicate_label"
    "malformed_duplicate_register"
    "malformed_empty"
    "malformed_extra_brace"
    "malformed_initialiser"
    "malformed_long_name"
    "malformed_macro"
    "malformed_many_modifiers"
    "malformed_many_operands"
    "malformed_no_version"
    "malformed_nul"
    "malformed_number"
    "malformed_number_overflow"
    "malformed_operands_missing"
    "malformed_parentheses"
    "malformed_recursion_alias"
    "malformed_register_count"
    "malformed_register_range"
    "malformed_truncated"
    "malformed_unclosed"
    "malformed_unclosed_comment"
    "malformed_unclosed_string"
    "malformed_undeclared"
    "malformed_unicode"
    "mask_forged"
    "mbarrier_anywhere"
    "misaligned_generic"
    "misaligned_global"
    "multimem"
    "offset_huge"
    "offset_limits"
    "offset_overflow"
    "offset_red_zone"
    "offset_sum"
    "param_generic"
    "param_huge"
    "param_negative"
    "param_past_end"
    "param_register"
    "param_store"
    "param_straddle"
    "pmevent"
    "pointer_in_memory"
    "pragma"
    "predicated"
    "prefetch"
    "recursion_deep"
    "recursion_mutual"
    "register_types"
    "reserved_shared"
    "reused_base"
    "setmaxnreg"
    "shadowed_names"
    "shared_dynamic"
    "shared_misaligned"
    "shared_negative"
    "shared_range"
    "shared_too_much"
    "shared_wide_address"
    "sleep_for_ever"
    "special_registers"
    "st_async"
    "stackrestore"
    "surface"
    "sweep"
    "tensormap_replace"
    "texture"
    "texture_declared"
    "trap"
    "unknown_modifier"
    "unknown_opcode"
    "unknown_space"
    "variable_at_address"
    "variable_computed"
    "variable_huge"
    "variable_past_end"
    "vector"
    "vector_register_base"
    "volatile"
    "weak_and_common"
    "wgmma"
    "wmma_stride"
    "wrap_64"
}

/// Every attack, in order of file name.
///
/// # Panics
/// If a file lacks its two leading comment lines; a test loads them all.
#[must_use]
pub fn attacks() -> Vec<Attack> {
    FILES
        .iter()
        .map(|&(file, text)| {
            let mut lines =
                text.split(|&b| b == b'\n').map(|l| str::from_utf8(l).unwrap_or_default());
            let about = lines.next().and_then(|l| l.strip_prefix("// attack: "));
            let expect = match lines.next().and_then(|l| l.strip_prefix("// expect: ")) {
                Some("refused") => Outcome::Refused,
                Some("fenced") => Outcome::Fenced,
                Some("runs-clean") => Outcome::RunsClean,
                other => panic!("{file}: second line says {other:?}"),
            };
            let about = about.unwrap_or_else(|| panic!("{file}: no // attack: line"));
            Attack { file, about, expect, text }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn every_file_is_listed_and_says_what_it_tries() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../kernels/attacks");
        let mut files: Vec<String> = std::fs::read_dir(folder)
            .unwrap()
            .map(|f| f.unwrap().file_name().into_string().unwrap())
            .collect();
        files.sort();
        let listed: Vec<&str> = attacks().iter().map(|a| a.file).collect();
        assert_eq!(files, listed);
    }
}
