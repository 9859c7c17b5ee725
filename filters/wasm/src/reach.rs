//! A component to which a door was added: functions for the host alone, through which its memory and its globals are reached.
//!
//! The host can call what a component exports, and nothing in it. So its modules export what lasts, one more module is
//! instantiated that imports this, and the functions of that are the component's. What it does is what it did before: nothing
//! that was there has another number.

use wasm_encoder::{
    Alias, BlockType, CanonicalFunctionSection, CanonicalOption, CodeSection, Component,
    ComponentAliasSection, ComponentExportKind, ComponentExportSection, ComponentImportSection,
    ComponentTypeRef, ComponentTypeSection, ComponentValType, ConstExpr, EntityType, ExportKind,
    ExportSection, Function, FunctionSection, GlobalSection, GlobalType, ImportSection, InstanceSection,
    MemoryType, Module, ModuleArg, ModuleSection, PrimitiveValType, RawSection, TypeSection, ValType,
};
use wasmparser::{ExternalKind, Parser, Payload};

use crate::movable::{Found, Hidden, Number};

/// The function that the component calls with what it is asked to give.
pub(crate) const GIVE: &str = "lighter-kept-give";
/// What this makes of a component has another name in a cache than what another one would.
pub(crate) const VERSION: &str = "kept1";
/// The functions of the door, as the component exports them.
pub(crate) const SIZE: &str = "lighter-kept-size";
pub(crate) const GROW: &str = "lighter-kept-grow";
pub(crate) const READ: &str = "lighter-kept-read";
pub(crate) const AIM: &str = "lighter-kept-aim";
pub(crate) const WRITE: &str = "lighter-kept-write";
pub(crate) const GET: &str = "lighter-kept-get";
pub(crate) const SET: &str = "lighter-kept-set";

/// The component with its door, and how many globals there are behind it.
pub(crate) fn with_door(bytes: &[u8]) -> Result<(Vec<u8>, usize), Hidden> {
    let found = Found::look(bytes)?;
    let mut component = copied(bytes, &found)?;
    let globals = add_door(&mut component, &found);
    Ok((component.finish(), globals))
}

/// All sections as they were, and modules that export what lasts.
fn copied(bytes: &[u8], found: &Found) -> Result<Component, Hidden> {
    let mut component = Component::new();
    let (mut depth, mut modules) = (0, 0);
    for payload in Parser::new(0).parse_all(bytes) {
        let payload = payload?;
        match &payload {
            Payload::Version { .. } => depth += 1,
            Payload::End(_) => depth -= 1,
            _ => {}
        }
        // A module's own sections come behind it.
        if depth > 1 {
            continue;
        }
        let Some((id, range)) = payload.as_section() else { continue };
        let data = bytes.get(range).unwrap_or_default();
        if matches!(payload, Payload::ModuleSection { .. }) {
            let open = opened(data, found.memories[modules], &found.globals[modules])?;
            component.section(&RawSection { id, data: &open });
            modules += 1;
        } else {
            component.section(&RawSection { id, data });
        }
    }
    Ok(component)
}

/// A module that exports its memory and its globals as well.
fn opened(bytes: &[u8], memory: Option<u32>, globals: &[(u32, Number)]) -> Result<Vec<u8>, Hidden> {
    if memory.is_none() && globals.is_empty() {
        return Ok(bytes.to_vec());
    }
    let mut exports = ExportSection::new();
    for payload in Parser::new(0).parse_all(bytes) {
        if let Payload::ExportSection(section) = payload? {
            for export in section {
                let export = export?;
                let kind = match export.kind {
                    ExternalKind::Func | ExternalKind::FuncExact => ExportKind::Func,
                    ExternalKind::Table => ExportKind::Table,
                    ExternalKind::Memory => ExportKind::Memory,
                    ExternalKind::Global => ExportKind::Global,
                    ExternalKind::Tag => ExportKind::Tag,
                };
                exports.export(export.name, kind, export.index);
            }
        }
    }
    if let Some(memory) = memory {
        exports.export(MEMORY, ExportKind::Memory, memory);
    }
    for (at, _) in globals {
        exports.export(&global_name(*at), ExportKind::Global, *at);
    }
    let mut module = Module::new();
    let mut is_exported = false;
    for payload in Parser::new(0).parse_all(bytes) {
        let payload = payload?;
        let Some((id, range)) = payload.as_section() else { continue };
        let is_behind = matches!(
            payload,
            Payload::StartSection { .. }
                | Payload::ElementSection(_)
                | Payload::DataCountSection { .. }
                | Payload::CodeSectionStart { .. }
                | Payload::DataSection(_)
        );
        let is_exports = matches!(payload, Payload::ExportSection(_));
        if (is_behind || is_exports) && !std::mem::replace(&mut is_exported, true) {
            module.section(&exports);
        }
        if !is_exports {
            module.section(&RawSection { id, data: bytes.get(range).unwrap_or_default() });
        }
    }
    if !is_exported {
        module.section(&exports);
    }
    Ok(module.finish())
}

/// How many globals there are behind it.
fn add_door(component: &mut Component, found: &Found) -> usize {
    let lasting: Vec<(u32, u32, Number)> = (0..)
        .zip(&found.instances)
        .filter_map(|(at, module)| Some((at, (*module)?)))
        .flat_map(|(at, module)| {
            found.globals[module].iter().map(move |(global, number)| (at, *global, *number))
        })
        .collect();
    let has_memory = |module: &Option<usize>| module.is_some_and(|module| found.memories[module].is_some());
    let owner = found.instances.iter().position(has_memory).unwrap_or_default() as u32;
    let numbers: Vec<Number> = lasting.iter().map(|(.., number)| *number).collect();

    component.section(&ModuleSection(&door(&numbers)));

    // What the functions are.
    let mut types = ComponentTypeSection::new();
    let bytes = ComponentValType::Type(found.types);
    let [u32, u64] = [PrimitiveValType::U32, PrimitiveValType::U64].map(ComponentValType::Primitive);
    types.ty().defined_type().list(ComponentValType::Primitive(PrimitiveValType::U8));
    let signatures: [Signature<'_>; 8] = [
        (&[("bytes", bytes)], None),
        (&[], Some(u32)),
        (&[("pages", u32)], Some(u32)),
        (&[("at", u32), ("length", u32)], None),
        (&[("at", u32)], None),
        (&[("bytes", bytes)], None),
        (&[("number", u32)], Some(u64)),
        (&[("number", u32), ("value", u64)], None),
    ];
    for (parameters, result) in signatures {
        types.ty().function().params(parameters.iter().copied()).result(result);
    }
    component.section(&types);
    let mut imports = ComponentImportSection::new();
    imports.import(GIVE, ComponentTypeRef::Func(found.types + 1));
    component.section(&imports);

    // What the module of the door imports.
    let mut aliases = ComponentAliasSection::new();
    aliases.alias(of(owner, ExportKind::Memory, MEMORY));
    for (instance, global, _) in &lasting {
        aliases.alias(of(*instance, ExportKind::Global, &global_name(*global)));
    }
    component.section(&aliases);
    let memory = CanonicalOption::Memory(found.core_memories);
    let mut lowered = CanonicalFunctionSection::new();
    lowered.lower(found.functions, [memory]);
    component.section(&lowered);
    let mut instances = InstanceSection::new();
    let mut items = vec![
        ("memory".to_owned(), ExportKind::Memory, found.core_memories),
        ("give".to_owned(), ExportKind::Func, found.core_functions),
    ];
    let globals = (found.core_globals..).zip(0..lasting.len());
    items.extend(globals.map(|(at, number)| (format!("g{number}"), ExportKind::Global, at)));
    instances.export_items(items);
    let given = found.instances.len() as u32;
    instances.instantiate(found.modules.len() as u32, [(FROM, ModuleArg::Instance(given))]);
    component.section(&instances);

    // And what it exports.
    let mut aliases = ComponentAliasSection::new();
    for name in DOOR.into_iter().chain([REALLOC]) {
        aliases.alias(of(given + 1, ExportKind::Func, name));
    }
    component.section(&aliases);
    let first = found.core_functions + 1;
    let mut lifted = CanonicalFunctionSection::new();
    let mut exports = ComponentExportSection::new();
    for (at, name) in (0..).zip(DOOR) {
        let ty = found.types + 2 + at;
        match name {
            WRITE => {
                let realloc = CanonicalOption::Realloc(first + DOOR.len() as u32);
                lifted.lift(first + at, ty, [memory, realloc])
            }
            _ => lifted.lift(first + at, ty, []),
        };
        // The function that is imported is before those of the door, and what is exported has a number of its own.
        exports.export(name, ComponentExportKind::Func, found.functions + 1 + at, None);
    }
    component.section(&lifted);
    component.section(&exports);
    lasting.len()
}

/// What an instance of a module exports.
fn of(instance: u32, kind: ExportKind, name: &str) -> Alias<'_> {
    Alias::CoreInstanceExport { instance, kind, name }
}

/// The module of the door.
fn door(globals: &[Number]) -> Module {
    use ValType::{I32, I64};
    let mut types = TypeSection::new();
    let signatures: [(&[ValType], &[ValType]); 8] = [
        (&[], &[I32]),
        (&[I32], &[I32]),
        (&[I32, I32], &[]),
        (&[I32], &[]),
        (&[I32, I32], &[]),
        (&[I32], &[I64]),
        (&[I32, I64], &[]),
        (&[I32; 4], &[I32]),
    ];
    for (parameters, results) in signatures {
        types.ty().function(parameters.iter().copied(), results.iter().copied());
    }
    let mut imports = ImportSection::new();
    let any = MemoryType { minimum: 0, maximum: None, memory64: false, shared: false, page_size_log2: None };
    imports.import(FROM, "memory", any);
    // What gives is like what writes.
    imports.import(FROM, "give", EntityType::Function(2));
    let changing = |val_type| GlobalType { val_type, mutable: true, shared: false };
    for (number, global) in globals.iter().enumerate() {
        imports.import(FROM, &format!("g{number}"), changing(global.ty()));
    }
    let mut functions = FunctionSection::new();
    (0..signatures.len() as u32).for_each(|ty| {
        functions.function(ty);
    });
    // Where the next bytes go.
    let aim = globals.len() as u32;
    let mut own = GlobalSection::new();
    own.global(changing(I32), &ConstExpr::i32_const(0));
    let mut exports = ExportSection::new();
    for (at, name) in (1..).zip(DOOR.into_iter().chain([REALLOC])) {
        exports.export(name, ExportKind::Func, at);
    }
    let mut code = CodeSection::new();
    let mut function = |write: &dyn Fn(&mut Function)| {
        let mut body = Function::new([]);
        write(&mut body);
        body.instructions().end();
        code.function(&body);
    };
    function(&|body| {
        body.instructions().memory_size(0);
    });
    function(&|body| {
        body.instructions().local_get(0).memory_grow(0);
    });
    function(&|body| {
        body.instructions().local_get(0).local_get(1).call(0);
    });
    function(&|body| {
        body.instructions().local_get(0).global_set(aim);
    });
    // Its bytes are there already: the host puts them where the realloc says.
    function(&|_| {});
    function(&|body| {
        for (at, number) in (0..).zip(globals) {
            let mut to = body.instructions();
            to.local_get(0).i32_const(at).i32_eq().if_(BlockType::Empty).global_get(at as u32);
            match number {
                Number::I32 => to.i64_extend_i32_u(),
                Number::I64 => &mut to,
                Number::F32 => to.i32_reinterpret_f32().i64_extend_i32_u(),
                Number::F64 => to.i64_reinterpret_f64(),
            };
            to.return_().end();
        }
        body.instructions().i64_const(0);
    });
    function(&|body| {
        for (at, number) in (0..).zip(globals) {
            let mut to = body.instructions();
            to.local_get(0).i32_const(at).i32_eq().if_(BlockType::Empty).local_get(1);
            match number {
                Number::I32 => to.i32_wrap_i64(),
                Number::I64 => &mut to,
                Number::F32 => to.i32_wrap_i64().f32_reinterpret_i32(),
                Number::F64 => to.f64_reinterpret_i64(),
            };
            to.global_set(at as u32).end();
        }
    });
    function(&|body| {
        body.instructions().global_get(aim);
    });
    let mut module = Module::new();
    module
        .section(&types)
        .section(&imports)
        .section(&functions)
        .section(&own)
        .section(&exports)
        .section(&code);
    module
}

impl Number {
    fn ty(self) -> ValType {
        match self {
            Number::I32 => ValType::I32,
            Number::I64 => ValType::I64,
            Number::F32 => ValType::F32,
            Number::F64 => ValType::F64,
        }
    }
}

fn global_name(at: u32) -> String {
    format!("lighter-global-{at}")
}

/// What a function of a component is given, by name, and what it gives.
type Signature<'a> = (&'a [(&'a str, ComponentValType)], Option<ComponentValType>);

/// What a module exports its memory as.
const MEMORY: &str = "lighter-memory";
/// What the door's module imports from.
const FROM: &str = "kept";
/// By which the host learns where bytes go that it writes.
const REALLOC: &str = "realloc";
/// In the order of their numbers.
const DOOR: [&str; 7] = [SIZE, GROW, READ, AIM, WRITE, GET, SET];
