//! The compiler: turns what it covers of a lowered program into machine code through Cranelift. The interpreter executes
//! the rest and is the reference: both give the same bits.
//!
//! A *region* is the code a thread can reach from an entry (a kernel's beginning, or behind an instruction of the
//! interpreter's) without meeting an instruction that only the interpreter executes: barriers, shuffles, atomics, calls,
//! matrix instructions, polls. Its machine code runs one lane after the other from the entry to where that lane leaves the
//! region, with registers in the processor; [`Op::Compiled`] in a copy of the code stands where a region begins. So a
//! kernel is cut at its barriers without being analysed for them, and divergence costs nothing inside a region.
//!
//! Safety: every access is checked as in the interpreter (see [`memory`]); an access that fails, or that the fast path does
//! not know, leaves the region *before* it is executed and the interpreter executes it, so faults are the interpreter's
//! own. Endless loops meet the launch's limits at every backward branch. Sizes are bounded in [`region`].
//!
//! Only threads that wait for each other can tell the difference: between two instructions of the interpreter's, a lane
//! runs to the end before the next begins. PTX gives no order there.

mod arithmetic;
pub(crate) mod background;
mod choices;
pub(crate) mod code;
mod group;
mod group_entry;
mod group_flow;
mod group_memory;
mod integer;
mod liveness;
mod memory;
mod region;
mod rows;
mod shape;
mod slots;
mod special;
mod straight;
pub(crate) mod tempo;
#[cfg(test)]
mod tests;
mod translate;
mod values;
mod wide;

use std::sync::Arc;

use cranelift_codegen::Context;
use cranelift_codegen::ir::types::{I32, I64};
use cranelift_codegen::ir::{AbiParam, InstBuilder, Signature, Type};
use cranelift_codegen::isa::CallConv;
use cranelift_codegen::settings::{self, Configurable};
use cranelift_frontend::{FunctionBuilder, FunctionBuilderContext};
use cranelift_jit::{JITBuilder, JITModule};
use cranelift_module::{FuncId, Module};

use crate::ir::{Inst, Op, Program};
use code::{Callable, Code};

/// Instructions of the largest region that gets a group form.
const MOST_GROUP: usize = 1_000;
/// One instruction in so many may lack a form in vectors.
const FEW: usize = 8;

/// A program's machine code.
#[derive(Debug)]
pub(crate) struct Compiled {
    /// The program's code with [`Op::Compiled`] where regions begin.
    pub(crate) code: Vec<Inst>,
    /// The regions.
    pub(crate) regions: Vec<Callable>,
    /// Each function's choice between this and the interpreter.
    pub(crate) tempos: Vec<tempo::Tempo>,
}

impl Compiled {
    /// The region that begins at a place.
    pub(crate) fn region_at(&self, pc: u32) -> Option<&Callable> {
        match self.code.get(pc as usize)?.op {
            Op::Compiled(index) => self.regions.get(index as usize),
            _ => None,
        }
    }
}

/// Compiles a program whose 64-bit constants have their addresses. `None` when nothing of it is worth compiling, the host
/// is not supported, or the compiler refuses: then the interpreter does everything.
pub(crate) fn compile(program: &Program, constants64: &[u64]) -> Option<Compiled> {
    if !host_is_supported() {
        return None;
    }
    let (regions, bodies) = region::regions(program);
    if regions.is_empty() {
        return None;
    }
    let mut flags = settings::builder();
    for (name, value) in [
        ("opt_level", "speed"),
        ("is_pic", "false"),
        ("use_colocated_libcalls", "false"),
        ("enable_probestack", "true"),
        ("probestack_strategy", "inline"),
        ("unwind_info", "false"),
    ] {
        flags.set(name, value).ok()?;
    }
    let isa = cranelift_native::builder().ok()?.finish(settings::Flags::new(flags)).ok()?;
    let builder = JITBuilder::with_isa(isa, cranelift_module::default_libcall_names());
    let mut module = JITModule::new(builder);
    let constants = (&program.constants32[..], constants64);
    let mut sites = 0;
    let mut contexts = FunctionBuilderContext::new();
    let mut context = module.make_context();
    let asking = [
        asking(&mut module, &mut context, &mut contexts, 4, code::translate as *const u8)?,
        asking(&mut module, &mut context, &mut contexts, 2, code::refill as *const u8)?,
    ];
    let mut made = Vec::new();
    let mut kinds: Vec<Option<Vec<values::Kind>>> = bodies.iter().map(|_| None).collect();
    let mut shapes: Vec<Option<Option<shape::Shapes>>> = bodies.iter().map(|_| None).collect();
    for region in &regions {
        let index = region.function as usize;
        let Some(body) = bodies.get(index).and_then(Option::as_ref) else { continue };
        let kinds = kinds[index].get_or_insert_with(|| {
            let code = &body.code[body.first as usize..body.end as usize];
            values::kinds(code, body.shape, constants)
        });
        let shapes = shapes[index]
            .get_or_insert_with(|| {
                let mut state =
                    shape::State { slots: body.shape, constants, kinds, shapes: Vec::new() };
                let targets = |table: u32| &program.tables[table as usize][..];
                let extent = (body.first, body.end);
                shape::Shapes::solve(body.code, extent, &mut state, targets)
            })
            .as_ref()
            .filter(|_| pays_in_groups(body, region));
        let input = (body, region, constants, &kinds[..], shapes);
        function(&mut module, (&mut context, &mut contexts), input, asking, &mut sites);
        let id = module.declare_anonymous_function(&context.func.signature).ok()?;
        let result = module.define_function(id, &mut context);
        module.clear_context(&mut context);
        // A function that the compiler refuses leaves its region to the interpreter.
        if result.is_ok() {
            made.push((region, id));
        }
    }
    module.finalize_definitions().ok()?;
    let addresses: Vec<(usize, *const u8)> = made
        .iter()
        .map(|(region, id)| (region.entry as usize, module.get_finalized_function(*id)))
        .collect();
    let code = Arc::new(Code::new(module));
    let mut patched = program.code.clone();
    let mut callables = Vec::new();
    for ((entry, address), (region, _)) in addresses.into_iter().zip(&made) {
        let f = &program.functions[region.function as usize];
        patched[entry] =
            Inst { guard: crate::ir::Guard::ALWAYS, op: Op::Compiled(callables.len() as u32) };
        let slots = [f.slots32, f.slots64, f.preds];
        callables.push(code::callable(address, code.clone(), slots, f.frame_bytes, sites));
    }
    let tempos = program.functions.iter().map(|_| tempo::Tempo::default()).collect();
    Some(Compiled { code: patched, regions: callables, tempos })
}

/// Whether a region is worth a group form: small, and mostly of instructions that have a form in vectors.
fn pays_in_groups(body: &region::Body<'_>, region: &region::Region) -> bool {
    let lacking = region.body.iter().filter(|&&pc| !wide::has_vectors(&body.code[pc as usize].op));
    region.body.len() <= MOST_GROUP && lacking.count() * FEW <= region.body.len()
}

/// Whether machine code for this host agrees with the interpreter: x86-64 with fused multiply-add and bit counting.
fn host_is_supported() -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("popcnt")
            && is_x86_feature_detected!("lzcnt")
            && is_x86_feature_detected!("bmi1")
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        false
    }
}

fn signature(module: &JITModule, params: &[Type], result: Type) -> Signature {
    let mut s: Signature = module.make_signature();
    s.params.extend(params.iter().map(|&t| AbiParam::new(t)));
    s.returns.push(AbiParam::new(result));
    s
}

/// Makes a function that calls one of the executor's with its own `count` parameters, the context first, puts the answer
/// there, and leaves every register as it was: a question in a cold place costs its surroundings nothing.
fn asking(
    module: &mut JITModule,
    context: &mut Context,
    contexts: &mut FunctionBuilderContext,
    count: usize,
    host: *const u8,
) -> Option<FuncId> {
    context.func.signature = Signature::new(CallConv::PreserveAll);
    context.func.signature.params.extend((0..count).map(|_| AbiParam::new(I64)));
    let called = signature(module, &vec![I64; count], I64);
    let frontend = module.isa().frontend_config();
    let mut b = FunctionBuilder::new(&mut context.func, contexts);
    let called = b.import_signature(called);
    let entry = b.create_block();
    b.append_block_params_for_function_params(entry);
    b.switch_to_block(entry);
    let params = b.block_params(entry).to_vec();
    let address = b.ins().iconst(I64, host as i64);
    let call = b.ins().call_indirect(called, address, &params);
    let answer = b.inst_results(call)[0];
    // CAST: the context is smaller than a page.
    let at = std::mem::offset_of!(code::Context, answer) as i32;
    b.ins().store(translate::plain(), answer, params[0], at);
    b.ins().return_(&[]);
    b.seal_all_blocks();
    b.finalize(frontend);
    let id = module.declare_anonymous_function(&context.func.signature).ok()?;
    let result = module.define_function(id, context);
    module.clear_context(context);
    result.ok().map(|()| id)
}

/// Puts a region's function into the context.
#[allow(clippy::type_complexity)] // The parts of one region; named nowhere else.
fn function(
    module: &mut JITModule,
    (context, contexts): (&mut Context, &mut FunctionBuilderContext),
    (body, region, constants, kinds, shapes): (
        &region::Body<'_>,
        &region::Region,
        (&[u32], &[u64]),
        &[values::Kind],
        Option<&shape::Shapes>,
    ),
    asking: [FuncId; 2],
    sites: &mut u32,
) {
    context.func.signature = signature(module, &[I64, I32], I32);
    let scalar = signature(module, &[I32, I64, I64, I64], I64);
    let frontend = module.isa().frontend_config();
    let asking = asking.map(|id| module.declare_func_in_func(id, &mut context.func));
    let mut builder = FunctionBuilder::new(&mut context.func, contexts);
    let scalar_signature = builder.import_signature(scalar);
    let input = translate::Input {
        body,
        region,
        constants,
        kinds,
        sites,
        scalar_signature,
        asking,
        shapes,
    };
    translate::region(builder, input, frontend);
}
