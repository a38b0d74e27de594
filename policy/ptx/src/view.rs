//! What a module offers, for those who launch it: kernels with their parameter layout, and the sizes
//! and places of shared, local, global and constant objects.
//!
//! Layout rules (PTX ISA sections 5.1.6 and 7.1, CUDA ABI): parameters stand in order, each at the
//! next multiple of its alignment. The order of shared objects is ours; ptxas may use another.

use crate::hash::{HashMap, HashSet};

use crate::tree::{
    Base, Block, Function, FunctionKind, Item, Linkage, Module, Name, Op, Operand, Space, Span,
    Statement, Variable,
};

/// Largest parameter block in bytes (sm_70 and later, PTX ISA 8.1).
pub const MAX_PARAM_BYTES: u64 = 32_764;
/// Most static shared memory that a kernel may declare, in bytes (227 KiB, sm_90).
pub const MAX_SHARED_BYTES: u64 = 227 << 10;
/// Most local memory of one function in bytes (512 KiB a thread).
pub const MAX_LOCAL_BYTES: u64 = 512 << 10;

/// Why a module has no layout.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ViewError {
    /// A size limit is exceeded.
    #[error("line {}: `{name}` needs {bytes} bytes of {what}, more than the {limit} there are", at.line)]
    TooLarge {
        /// Where.
        at: Span,
        /// The kernel, function or variable.
        name: Name,
        /// Of which memory.
        what: &'static str,
        /// How much it needs.
        bytes: u64,
        /// How much there is.
        limit: u64,
    },
    /// A variable has no definite size.
    #[error("line {}: `{name}` has no definite size", at.line)]
    Unsized {
        /// Where.
        at: Span,
        /// The variable.
        name: Name,
    },
}

/// Something with a place: a parameter or a variable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    /// Name.
    pub name: Name,
    /// Bytes from the start of its parameter block or memory.
    pub offset: u64,
    /// Size in bytes; 0 for dynamic shared memory.
    pub size: u64,
    /// Alignment in bytes.
    pub align: u64,
}

/// A kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kernel {
    /// Name.
    pub name: Name,
    /// Parameters in order.
    pub params: Vec<Object>,
    /// Size of the parameter block in bytes.
    pub param_bytes: u64,
    /// Shared objects of the kernel's own; with `calls`, they follow [`ModuleView::device_shared`].
    pub shared: Vec<Object>,
    /// Static shared memory in bytes, device functions' included.
    pub shared_bytes: u64,
    /// Alignment and offset of dynamic shared memory, if the kernel can use any.
    pub dynamic_shared: Option<Object>,
    /// Local objects of the kernel's own body.
    pub local: Vec<Object>,
    /// Local memory of the kernel's own body, without callees, in bytes.
    pub local_bytes: u64,
    /// True when it contains a `call`.
    pub calls: bool,
    /// `.maxntid`: most threads along each axis (as written; the product bounds a block).
    pub max_threads: Option<[u32; 3]>,
    /// `.reqntid`: exact threads along each axis.
    pub required_threads: Option<[u32; 3]>,
}

/// A device function with a body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceFunction {
    /// Name.
    pub name: Name,
    /// Local objects of its own body.
    pub local: Vec<Object>,
    /// Local memory of its own body in bytes.
    pub local_bytes: u64,
}

/// A `.global` or `.const` variable, wherever it is declared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Global {
    /// Name.
    pub name: Name,
    /// The function it is declared in, if any.
    pub function: Option<Name>,
    /// `.global` or `.const`.
    pub space: Space,
    /// Size in bytes.
    pub size: u64,
    /// Alignment in bytes.
    pub align: u64,
    /// True when other modules and the host may name it.
    pub visible: bool,
    /// Position among `Module::items`, when declared at module level.
    pub item: Option<usize>,
}

/// Everything a module offers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ModuleView {
    /// Kernels in order of definition.
    pub kernels: Vec<Kernel>,
    /// Device functions in order of definition.
    pub functions: Vec<DeviceFunction>,
    /// Global and constant variables in order.
    pub globals: Vec<Global>,
    /// Shared objects that device functions name, laid out from 0; kernels that call anything have
    /// them in front of their own.
    pub device_shared: Vec<Object>,
    /// Bytes of those.
    pub device_shared_bytes: u64,
}

impl ModuleView {
    /// The kernel with this name.
    pub fn kernel(&self, name: &str) -> Option<&Kernel> {
        self.kernels.iter().find(|kernel| &*kernel.name == name)
    }

    /// Reads a module. Linear in its size.
    ///
    /// # Errors
    /// [`ViewError`] when an object has no size or a limit of the GPU is exceeded.
    pub fn of(module: &Module) -> Result<Self, ViewError> {
        let mut view = Self::default();
        let mut shared = HashMap::default();
        for (item, variable) in module.items.iter().enumerate() {
            let Item::Variable(v) = variable else { continue };
            match v.space {
                Space::Shared => {
                    shared.insert(v.name.clone(), v);
                }
                _ => view.globals.push(global(v, None, Some(item))?),
            }
        }
        let functions = || {
            module.items.iter().filter_map(|item| match item {
                Item::Function(f) => f.body.as_ref().map(|body| (&**f, body)),
                _ => None,
            })
        };
        let mut device = Layout::default();
        let mut device_dynamic = None;
        for (f, body) in functions().filter(|(f, _)| f.kind == FunctionKind::Func) {
            let contents = Contents::of(body, &shared);
            for v in &contents.shared {
                place_shared(v, &mut device, &mut device_dynamic)?;
            }
            let local = local(f, &contents)?;
            let (local_bytes, local) = (local.end, local.objects);
            view.functions.push(DeviceFunction { name: f.name.clone(), local, local_bytes });
            for v in &contents.globals {
                view.globals.push(global(v, Some(&f.name), None)?);
            }
        }
        for (f, body) in functions().filter(|(f, _)| f.kind == FunctionKind::Entry) {
            let contents = Contents::of(body, &shared);
            for v in &contents.globals {
                view.globals.push(global(v, Some(&f.name), None)?);
            }
            let kernel = kernel(f, &contents, &device, &device_dynamic)?;
            view.kernels.push(kernel);
        }
        view.device_shared_bytes = device.end;
        view.device_shared = device.objects;
        Ok(view)
    }
}

#[derive(Default)]
struct Layout {
    objects: Vec<Object>,
    placed: HashSet<Name>,
    end: u64,
}

impl Layout {
    /// Places a variable after the last one, once.
    fn place(&mut self, v: &Variable) -> Result<(), ViewError> {
        let size = v.bytes().ok_or_else(|| unsized_error(v))?;
        if !self.placed.insert(v.name.clone()) {
            return Ok(());
        }
        let align = v.alignment();
        let too_large = || ViewError::TooLarge {
            at: v.span,
            name: v.name.clone(),
            what: "address space",
            bytes: size,
            limit: 1 << 48,
        };
        let offset = self.end.checked_next_multiple_of(align).ok_or_else(too_large)?;
        self.end = offset.checked_add(size).filter(|end| *end < 1 << 48).ok_or_else(too_large)?;
        self.objects.push(Object { name: v.name.clone(), offset, size, align });
        Ok(())
    }
}

fn unsized_error(v: &Variable) -> ViewError {
    ViewError::Unsized { at: v.span, name: v.name.clone() }
}

/// Static objects go into the layout; external ones are dynamic and all share one place.
fn place_shared(
    v: &Variable,
    layout: &mut Layout,
    dynamic: &mut Option<(Name, u64)>,
) -> Result<(), ViewError> {
    if v.linkage != Linkage::Extern {
        return layout.place(v);
    }
    let align = dynamic.as_ref().map_or(1, |(_, align)| *align).max(v.alignment());
    *dynamic = Some((v.name.clone(), align));
    Ok(())
}

/// What a body declares and names.
#[derive(Default)]
struct Contents<'m> {
    shared: Vec<&'m Variable>,
    local: Vec<&'m Variable>,
    globals: Vec<&'m Variable>,
    seen: HashSet<&'m str>,
    calls: bool,
}

impl<'m> Contents<'m> {
    fn of(body: &'m Block, shared: &HashMap<Name, &'m Variable>) -> Self {
        let mut contents = Self::default();
        contents.block(body, shared);
        contents
    }

    fn block(&mut self, block: &'m Block, shared: &HashMap<Name, &'m Variable>) {
        for statement in &block.statements {
            match statement {
                Statement::Variable(v) => match v.space {
                    Space::Shared => self.shared.push(v),
                    Space::Local => self.local.push(v),
                    Space::Global | Space::Const => self.globals.push(v),
                    _ => {}
                },
                Statement::Block(inner) => self.block(inner, shared),
                Statement::Instruction(i) => {
                    self.calls |= i.op() == Some(Op::Call);
                    i.operands.iter().for_each(|operand| self.operand(operand, shared));
                }
                _ => {}
            }
        }
    }

    fn operand(&mut self, operand: &'m Operand, shared: &HashMap<Name, &'m Variable>) {
        let name = match operand {
            Operand::Symbol(name, _) => name,
            Operand::Address(address) => match &address.base {
                Base::Symbol(name) => name,
                _ => return,
            },
            Operand::Vector(items) | Operand::List(items) => {
                return items.iter().for_each(|item| self.operand(item, shared));
            }
            _ => return,
        };
        if let Some(v) = shared.get(name)
            && self.seen.insert(name)
        {
            self.shared.push(v);
        }
    }
}

fn global(v: &Variable, function: Option<&Name>, item: Option<usize>) -> Result<Global, ViewError> {
    Ok(Global {
        name: v.name.clone(),
        function: function.cloned(),
        space: v.space,
        size: v.bytes().ok_or_else(|| unsized_error(v))?,
        align: v.alignment(),
        visible: v.linkage != Linkage::Internal,
        item,
    })
}

fn limited(f: &Function, what: &'static str, bytes: u64, limit: u64) -> Result<(), ViewError> {
    if bytes <= limit {
        return Ok(());
    }
    Err(ViewError::TooLarge { at: f.span, name: f.name.clone(), what, bytes, limit })
}

fn local(f: &Function, contents: &Contents<'_>) -> Result<Layout, ViewError> {
    let mut layout = Layout::default();
    contents.local.iter().try_for_each(|v| layout.place(v))?;
    limited(f, "local memory", layout.end, MAX_LOCAL_BYTES)?;
    Ok(layout)
}

fn threads(f: &Function, directive: &str) -> Option<[u32; 3]> {
    let values = f.directive(directive)?;
    let axis = |index: usize| values.get(index).copied().unwrap_or(1);
    Some([axis(0), axis(1), axis(2)])
}

fn kernel(
    f: &Function,
    contents: &Contents<'_>,
    device: &Layout,
    device_dynamic: &Option<(Name, u64)>,
) -> Result<Kernel, ViewError> {
    let mut params = Layout::default();
    f.params.iter().try_for_each(|v| params.place(v))?;
    limited(f, "parameters", params.end, MAX_PARAM_BYTES)?;
    let mut shared = Layout::default();
    let mut dynamic = None;
    if contents.calls {
        shared.end = device.end;
        dynamic = device_dynamic.clone();
    }
    for v in &contents.shared {
        if !(contents.calls && device.placed.contains(&v.name)) {
            place_shared(v, &mut shared, &mut dynamic)?;
        }
    }
    limited(f, "static shared memory", shared.end, MAX_SHARED_BYTES)?;
    let local = local(f, contents)?;
    let dynamic_shared = dynamic.map(|(name, align)| {
        // CUDA aligns dynamic shared memory to 16 bytes at least (ptxas does the same).
        let align = align.max(16);
        let offset = shared.end.next_multiple_of(align);
        Object { name, offset, size: 0, align }
    });
    Ok(Kernel {
        name: f.name.clone(),
        params: params.objects,
        param_bytes: params.end,
        shared_bytes: shared.end,
        shared: shared.objects,
        dynamic_shared,
        local_bytes: local.end,
        local: local.objects,
        calls: contents.calls,
        max_threads: threads(f, "maxntid"),
        required_threads: threads(f, "reqntid"),
    })
}
