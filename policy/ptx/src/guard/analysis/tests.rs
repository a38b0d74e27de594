use super::*;
use crate::tree::{Item, Module, Space};
use crate::{Limits, parse};

fn analyses(module: &Module, shape: Option<BlockShape>) -> Vec<(&Function, Analysis<'_>)> {
    let shared = module_objects(module.items.iter().filter_map(|item| match item {
        Item::Variable(v) if v.space.is_shared() => Some(v),
        _ => None,
    }));
    module
        .items
        .iter()
        .filter_map(|item| match item {
            Item::Function(f) => Some((&**f, f.body.as_ref()?)),
            _ => None,
        })
        .map(|(f, body)| (f, Analysis::new(f, body, &shared, shape, None)))
        .collect()
}

#[test]
fn corpus() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/kernels/ptx");
    for entry in std::fs::read_dir(path).unwrap() {
        let path = entry.unwrap().path();
        let module = parse(&std::fs::read(&path).unwrap(), &Limits::default()).unwrap();
        for (f, analysis) in analyses(&module, None) {
            for (index, i) in analysis.graph.instructions.iter().enumerate() {
                for (operand, address) in Analysis::addresses(i) {
                    let space = match i.space() {
                        Some(s) if s.is_shared() => ObjectSpace::Shared,
                        Some(Space::Local) => ObjectSpace::Local,
                        _ => continue,
                    };
                    let place = analysis.place(index as u32, operand);
                    let bytes = u64::from(i.vector() * i.ty().map_or(4, |t| t.bytes()));
                    let ok = analysis.is_proved(
                        &place.value,
                        address.offset,
                        space,
                        bytes,
                        bytes,
                        48 << 10,
                    );
                    println!(
                        "{} {} {}:{} {} {:?}",
                        if ok { "proved" } else { "OPEN" },
                        path.file_name().unwrap().to_str().unwrap(),
                        f.name,
                        i.span.line,
                        crate::print_instruction(i),
                        if ok { None } else { Some(place.value) }
                    );
                }
            }
        }
    }
}
