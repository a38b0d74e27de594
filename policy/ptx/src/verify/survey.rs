//! How much of the corpus is proved as it stands (a measurement, printed; run with --ignored).
use super::*;
use crate::contract::BlockShape;
use crate::parse::parse;
#[test]
#[ignore]
fn survey() {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/kernels/ptx");
    let arena = Arena::new(4 << 32, 4 << 30).unwrap();
    let mut files: Vec<_> = std::fs::read_dir(root).unwrap().map(|e| e.unwrap().path()).collect();
    files.sort();
    for shape in [(256, 1, 1), (16, 16, 1), (128, 1, 1), (32, 8, 1)] {
        let (mut proved, mut all) = (0, 0);
        for file in &files {
            let module = parse(&std::fs::read(file).unwrap(), &Limits::default()).unwrap();
            let mut shared = HashMap::new();
            for item in &module.items {
                if let Item::Variable(v) = item {
                    if v.space.is_shared() { shared.insert(&*v.name, v); }
                }
            }
            for item in &module.items {
                let Item::Function(f) = item else { continue };
                if f.body.is_none() { continue }
                let entry = KernelContract { kernel: f.name.clone(), block: Some(BlockShape { x: shape.0, y: shape.1, z: shape.2 }), dynamic_shared: 4096, pointers: vec![] };
                let launch = Launch::of_kernel(f, Some(&entry), arena);
                let code = Code::of(f, &shared).unwrap();
                let start = std::time::Instant::now();
                let eval = Eval::new(&code, &launch);
                let (mut p, mut n) = (0, 0);
                let mut bad = String::new();
                for (index, i) in code.instructions.iter().enumerate() {
                    if i.op() == Some(Op::Call) || i.address().is_none() { continue }
                    if !i.space().is_some_and(|s| s.is_shared() || s == Space::Local || s.is_param()) { continue }
                    let Ok(row) = opcode::classify(i) else { continue };
                    n += 1;
                    if access::check(&eval, index as u32, row).is_ok() { p += 1 } else {
                        bad += &format!(" {}:{}", i.span.line, crate::print::print_instruction(i));
                    }
                }
                proved += p; all += n;
                if p < n {
                    println!("{:?} {} {}: {p}/{n} {:?} {}", shape, file.file_name().unwrap().to_string_lossy(), f.name, start.elapsed(), bad.chars().take(300).collect::<String>());
                }
            }
        }
        println!("{shape:?}: {proved} of {all}");
    }
}
