//! What lasts in an instance of a component between two calls, and whether all of it can be read from outside.
//!
//! That is its memory and the globals that change. A component whose tables change, or that holds anything else which nobody
//! but itself can read, does not move.

use std::ops::Range;

use wasmparser::{
    CanonicalFunction, ComponentAlias, ComponentExternalKind, ExternalKind, GlobalType, Instance, MemoryType,
    Operator, Parser, Payload, TypeRef, ValType,
};

/// Where what lasts is, and how far the component's numbers go.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Found {
    /// Its modules, as the bytes of the component that they are.
    pub(crate) modules: Vec<Range<usize>>,
    /// By module: the globals that it defines and that change.
    pub(crate) globals: Vec<Vec<(u32, Number)>>,
    /// By module: the number of the memory that it defines.
    pub(crate) memories: Vec<Option<u32>>,
    /// By core instance: the module that it is of, if it is of one.
    pub(crate) instances: Vec<Option<usize>>,
    /// How many there are of what is defined beside that.
    pub(crate) core_functions: u32,
    pub(crate) core_memories: u32,
    pub(crate) core_globals: u32,
    pub(crate) types: u32,
    pub(crate) functions: u32,
}

/// What a global that can be moved holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Number {
    I32,
    I64,
    F32,
    F64,
}

/// Why an instance of a component cannot be moved, as an end of a sentence that begins with the component.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Hidden {
    #[error("cannot be read: {0}")]
    Malformed(String),
    #[error("has {0} memories, where one can be moved")]
    Memories(usize),
    #[error("has a memory of 64-bit addresses, or one that threads share")]
    KindOfMemory,
    #[error("has a global that changes and holds no number of 64 bits at most")]
    Global,
    #[error("changes a table (`{0}`)")]
    Table(&'static str),
    #[error("drops data (`data.drop`), which nobody can see")]
    Data,
    #[error("uses {0}")]
    Uses(&'static str),
    #[error("has a component in it that has code of its own")]
    Nested,
}

impl From<wasmparser::BinaryReaderError> for Hidden {
    fn from(error: wasmparser::BinaryReaderError) -> Self {
        Hidden::Malformed(error.to_string())
    }
}

impl Found {
    /// Looks through a component.
    pub(crate) fn look(bytes: &[u8]) -> Result<Self, Hidden> {
        let mut found = Found::default();
        let mut depth = 0;
        for payload in Parser::new(0).parse_all(bytes) {
            let payload = payload?;
            match &payload {
                Payload::Version { .. } => depth += 1,
                Payload::End(_) => depth -= 1,
                _ => {}
            }
            match payload {
                _ if depth > 1 => {}
                Payload::ModuleSection { unchecked_range, .. } => {
                    let module = bytes.get(unchecked_range.clone()).unwrap_or_default();
                    found.module(module)?;
                    found.modules.push(unchecked_range);
                }
                Payload::ComponentSection { unchecked_range, .. } => {
                    let inner = bytes.get(unchecked_range).unwrap_or_default();
                    for payload in Parser::new(0).parse_all(inner) {
                        if matches!(payload?, Payload::ModuleSection { .. } | Payload::InstanceSection(_)) {
                            return Err(Hidden::Nested);
                        }
                    }
                }
                payload => found.section(payload)?,
            }
        }
        let memories = found.instances.iter().flatten().filter(|at| found.memories[**at].is_some());
        match memories.count() {
            1 => Ok(found),
            count => Err(Hidden::Memories(count)),
        }
    }

    /// Counts what a section of the component itself defines.
    fn section(&mut self, payload: Payload<'_>) -> Result<(), Hidden> {
        match payload {
            Payload::InstanceSection(section) => {
                for instance in section {
                    let module = match instance? {
                        Instance::Instantiate { module_index, .. } => Some(module_index as usize),
                        Instance::FromExports(_) => None,
                    };
                    if module.is_some_and(|module| module >= self.modules.len()) {
                        return Err(Hidden::Uses("a module that is not its own"));
                    }
                    self.instances.push(module);
                }
            }
            Payload::ComponentTypeSection(section) => self.types += section.count(),
            Payload::ComponentImportSection(section) => {
                for import in section {
                    self.named(import?.ty.kind())?;
                }
            }
            Payload::ComponentExportSection(section) => {
                for export in section {
                    self.named(export?.kind)?;
                }
            }
            Payload::ComponentAliasSection(section) => {
                for alias in section {
                    match alias? {
                        ComponentAlias::InstanceExport { kind, .. } => self.named(kind)?,
                        ComponentAlias::CoreInstanceExport { kind, .. } => match kind {
                            ExternalKind::Func | ExternalKind::FuncExact => self.core_functions += 1,
                            ExternalKind::Memory => self.core_memories += 1,
                            ExternalKind::Global => self.core_globals += 1,
                            ExternalKind::Table | ExternalKind::Tag => {}
                        },
                        // Nothing is around it.
                        ComponentAlias::Outer { .. } => return Err(Hidden::Uses("what is outside of it")),
                    }
                }
            }
            Payload::ComponentCanonicalSection(section) => {
                for function in section {
                    match function? {
                        CanonicalFunction::Lift { .. } => self.functions += 1,
                        CanonicalFunction::Lower { .. } | CanonicalFunction::ResourceDrop { .. } => {
                            self.core_functions += 1;
                        }
                        CanonicalFunction::ResourceNew { .. } | CanonicalFunction::ResourceRep { .. } => {
                            return Err(Hidden::Uses("resources of its own"));
                        }
                        _ => return Err(Hidden::Uses("what waits, or lasts, beside its memory")),
                    }
                }
            }
            Payload::ComponentStartSection { .. } => return Err(Hidden::Uses("a function that begins it")),
            _ => {}
        }
        Ok(())
    }

    /// Something of that kind has a number more.
    fn named(&mut self, kind: ComponentExternalKind) -> Result<(), Hidden> {
        match kind {
            ComponentExternalKind::Module => return Err(Hidden::Uses("a module that is not its own")),
            ComponentExternalKind::Func => self.functions += 1,
            ComponentExternalKind::Type => self.types += 1,
            ComponentExternalKind::Value
            | ComponentExternalKind::Instance
            | ComponentExternalKind::Component => {}
        }
        Ok(())
    }

    /// Looks through a module.
    fn module(&mut self, bytes: &[u8]) -> Result<(), Hidden> {
        let (mut globals, mut memories) = (0, 0);
        let (mut changing, mut memory) = (Vec::new(), None);
        for payload in Parser::new(0).parse_all(bytes) {
            match payload? {
                Payload::ImportSection(section) => {
                    for import in section.into_imports() {
                        match import?.ty {
                            TypeRef::Global(_) => globals += 1,
                            TypeRef::Memory(_) => memories += 1,
                            _ => {}
                        }
                    }
                }
                Payload::MemorySection(section) => {
                    if section.count() > 1 {
                        return Err(Hidden::Memories(section.count() as usize));
                    }
                    for defined in section {
                        let MemoryType { memory64, shared, page_size_log2, .. } = defined?;
                        if memory64 || shared || page_size_log2.is_some() {
                            return Err(Hidden::KindOfMemory);
                        }
                        memory = Some(memories);
                    }
                }
                Payload::GlobalSection(section) => {
                    for (at, global) in section.into_iter().enumerate() {
                        let GlobalType { content_type, mutable, shared } = global?.ty;
                        if mutable {
                            let number = Number::of(content_type).filter(|_| !shared);
                            changing.push((globals + at as u32, number.ok_or(Hidden::Global)?));
                        }
                    }
                }
                Payload::CodeSectionEntry(body) => {
                    for operator in body.get_operators_reader()? {
                        lasts(&operator?)?;
                    }
                }
                _ => {}
            }
        }
        self.globals.push(changing);
        self.memories.push(memory);
        Ok(())
    }
}

/// Refuses what changes something that nobody can read.
fn lasts(operator: &Operator<'_>) -> Result<(), Hidden> {
    let table = match operator {
        Operator::TableSet { .. } => "table.set",
        Operator::TableGrow { .. } => "table.grow",
        Operator::TableFill { .. } => "table.fill",
        Operator::TableCopy { .. } => "table.copy",
        Operator::TableInit { .. } => "table.init",
        Operator::ElemDrop { .. } => "elem.drop",
        Operator::DataDrop { .. } => return Err(Hidden::Data),
        _ => return Ok(()),
    };
    Err(Hidden::Table(table))
}

impl Number {
    fn of(ty: ValType) -> Option<Self> {
        match ty {
            ValType::I32 => Some(Number::I32),
            ValType::I64 => Some(Number::I64),
            ValType::F32 => Some(Number::F32),
            ValType::F64 => Some(Number::F64),
            ValType::V128 | ValType::Ref(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use wasm_encoder::{
        CodeSection, Component, ComponentSectionId, ConstExpr, ElementSection, Elements, Function,
        FunctionSection, GlobalSection, InstanceSection, MemorySection, Module, ModuleArg, ModuleSection,
        NestedComponentSection, RawSection, RefType, TableSection, TableType, TypeSection,
    };

    use super::*;

    /// A module with so many memories, these globals that change, and a function of this code.
    fn module(
        memories: &[wasm_encoder::MemoryType],
        globals: &[wasm_encoder::ValType],
        code: &[u8],
    ) -> Module {
        let (mut types, mut functions) = (TypeSection::new(), FunctionSection::new());
        let mut tables = TableSection::new();
        types.ty().function([], []);
        functions.function(0);
        let element_type = RefType::FUNCREF;
        tables.table(TableType { element_type, table64: false, minimum: 1, maximum: None, shared: false });
        let mut defined = MemorySection::new();
        for memory in memories {
            defined.memory(*memory);
        }
        let mut changing = GlobalSection::new();
        // One that changes not is nobody's affair.
        let fixed =
            wasm_encoder::GlobalType { val_type: wasm_encoder::ValType::V128, mutable: false, shared: false };
        changing.global(fixed, &ConstExpr::v128_const(0));
        for val_type in globals {
            let global = wasm_encoder::GlobalType { val_type: *val_type, mutable: true, shared: false };
            let first = match val_type {
                wasm_encoder::ValType::I32 => ConstExpr::i32_const(1),
                wasm_encoder::ValType::F64 => ConstExpr::f64_const(1.0.into()),
                wasm_encoder::ValType::V128 => ConstExpr::v128_const(0),
                _ => ConstExpr::ref_null(wasm_encoder::HeapType::FUNC),
            };
            changing.global(global, &first);
        }
        // What a table is given when an instance begins is the same in the next one.
        let mut elements = ElementSection::new();
        elements.active(None, &ConstExpr::i32_const(0), Elements::Functions([0][..].into()));
        let mut body = Function::new([]);
        body.raw(code.iter().copied());
        body.instructions().end();
        let mut bodies = CodeSection::new();
        bodies.function(&body);
        let mut module = Module::new();
        module.section(&types).section(&functions).section(&tables).section(&defined);
        module.section(&changing).section(&elements).section(&bodies);
        module
    }

    /// A component with as many instances of the module.
    fn component(module: &Module, instances: usize) -> Component {
        let mut component = Component::new();
        component.section(&ModuleSection(module));
        let mut section = InstanceSection::new();
        for _ in 0..instances {
            section.instantiate(0, [("", ModuleArg::Instance(0)); 0]);
        }
        component.section(&section);
        component
    }

    fn hidden(module: &Module, instances: usize) -> String {
        Found::look(&component(module, instances).finish()).unwrap_err().to_string()
    }

    const MEMORY: wasm_encoder::MemoryType = wasm_encoder::MemoryType {
        minimum: 1,
        maximum: None,
        memory64: false,
        shared: false,
        page_size_log2: None,
    };

    #[test]
    fn what_lasts_is_found_and_reached() {
        use wasm_encoder::ValType::{F64, I32};
        let bytes = component(&module(&[MEMORY], &[I32, F64], &[]), 1).finish();
        let found = Found::look(&bytes).unwrap();
        assert_eq!((&*found.memories, &*found.instances), (&[Some(0)][..], &[Some(0)][..]));
        assert_eq!(found.globals, [[(1, Number::I32), (2, Number::F64)]]);
        let (open, globals) = crate::reach::with_door(&bytes).unwrap();
        assert_eq!(globals, 2);
        wasmparser::Validator::new().validate_all(&open).unwrap();
        // What has a door has it once.
        let again = crate::reach::with_door(&open).map(|(open, _)| open);
        assert!(again.is_err() || wasmparser::Validator::new().validate_all(&again.unwrap()).is_err());
    }

    #[test]
    fn what_nobody_can_read_is_said() {
        use wasm_encoder::ValType::{Ref, V128};
        let plain = module(&[MEMORY], &[], &[]);
        assert_eq!(hidden(&module(&[], &[], &[]), 1), "has 0 memories, where one can be moved");
        assert_eq!(hidden(&plain, 0), "has 0 memories, where one can be moved");
        assert_eq!(hidden(&plain, 2), "has 2 memories, where one can be moved");
        assert_eq!(hidden(&module(&[MEMORY; 2], &[], &[]), 1), "has 2 memories, where one can be moved");
        let wide = wasm_encoder::MemoryType { memory64: true, ..MEMORY };
        assert!(hidden(&module(&[wide], &[], &[]), 1).contains("64-bit addresses"));
        for global in [Ref(RefType::FUNCREF), V128] {
            assert!(hidden(&module(&[MEMORY], &[global], &[]), 1).contains("holds no number"));
        }
        for (code, name) in [
            (&[0x41, 0, 0xd0, 0x70, 0x26, 0][..], "table.set"),
            (&[0xd0, 0x70, 0x41, 0, 0xfc, 15, 0, 0x1a], "table.grow"),
            (&[0x41, 0, 0xd0, 0x70, 0x41, 0, 0xfc, 17, 0], "table.fill"),
            (&[0x41, 0, 0x41, 0, 0x41, 0, 0xfc, 14, 0, 0], "table.copy"),
            (&[0x41, 0, 0x41, 0, 0x41, 0, 0xfc, 12, 0, 0], "table.init"),
            (&[0xfc, 13, 0], "elem.drop"),
        ] {
            let said = hidden(&module(&[MEMORY], &[], code), 1);
            assert_eq!(said, format!("changes a table (`{name}`)"));
        }
        assert!(hidden(&module(&[MEMORY], &[], &[0xfc, 9, 0]), 1).contains("data.drop"));
        // A component inside, with code of its own.
        let mut outer = component(&plain, 1);
        outer.section(&NestedComponentSection(&component(&plain, 1)));
        assert_eq!(Found::look(&outer.finish()).unwrap_err(), Hidden::Nested);
        // A resource of its own: a type, and what makes one.
        let mut owner = component(&plain, 1);
        owner.section(&RawSection { id: ComponentSectionId::Type.into(), data: &[1, 0x3f, 0x7f, 0] });
        owner.section(&RawSection { id: ComponentSectionId::CanonicalFunction.into(), data: &[1, 2, 0] });
        assert_eq!(Found::look(&owner.finish()).unwrap_err(), Hidden::Uses("resources of its own"));
        assert!(matches!(Found::look(b"\0asm"), Err(Hidden::Malformed(_))));
    }
}
