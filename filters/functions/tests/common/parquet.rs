//! Parquet files for tests, written by the reader's own crate and never committed.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use parquet::basic::{Compression, ConvertedType, Repetition, Type as Physical};
use parquet::data_type::{BoolType, ByteArray, ByteArrayType, DoubleType, Int64Type};
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::types::Type;

/// A column with its values; a row without one has none.
pub enum Column {
    Int(Vec<Option<i64>>),
    Float(Vec<Option<f64>>),
    Bool(Vec<Option<bool>>),
    Text(Vec<Option<String>>),
}

impl Column {
    fn rows(&self) -> usize {
        match self {
            Column::Int(values) => values.len(),
            Column::Float(values) => values.len(),
            Column::Bool(values) => values.len(),
            Column::Text(values) => values.len(),
        }
    }

    fn schema(&self, name: &str) -> Type {
        let (physical, converted) = match self {
            Column::Int(_) => (Physical::INT64, ConvertedType::NONE),
            Column::Float(_) => (Physical::DOUBLE, ConvertedType::NONE),
            Column::Bool(_) => (Physical::BOOLEAN, ConvertedType::NONE),
            Column::Text(_) => (Physical::BYTE_ARRAY, ConvertedType::UTF8),
        };
        Type::primitive_type_builder(name, physical)
            .with_repetition(Repetition::OPTIONAL)
            .with_converted_type(converted)
            .build()
            .unwrap()
    }
}

/// Writes these columns in row groups of so many rows.
pub fn write(path: &Path, columns: &[(&str, Column)], rows_in_group: usize) {
    let fields = columns.iter().map(|(name, column)| Arc::new(column.schema(name))).collect();
    let schema = Type::group_type_builder("row").with_fields(fields).build().unwrap();
    let properties = WriterProperties::builder().set_compression(Compression::SNAPPY).build();
    let file = File::create(path).unwrap();
    let mut writer = SerializedFileWriter::new(file, Arc::new(schema), Arc::new(properties)).unwrap();
    let rows = columns.first().map_or(0, |(_, column)| column.rows());
    let mut start = 0;
    while start < rows {
        let part = start..rows.min(start + rows_in_group);
        let mut group = writer.next_row_group().unwrap();
        for (_, column) in columns {
            let mut writer = group.next_column().unwrap().unwrap();
            macro_rules! put {
                ($type:ty, $values:expr, $of:expr) => {{
                    let values = &$values[part.clone()];
                    let levels: Vec<i16> = values.iter().map(|value| value.is_some().into()).collect();
                    let there: Vec<_> = values.iter().flatten().map($of).collect();
                    writer.typed::<$type>().write_batch(&there, Some(&levels), None).unwrap();
                }};
            }
            match column {
                Column::Int(values) => put!(Int64Type, values, |value| *value),
                Column::Float(values) => put!(DoubleType, values, |value| *value),
                Column::Bool(values) => put!(BoolType, values, |value| *value),
                Column::Text(values) => {
                    put!(ByteArrayType, values, |value: &String| ByteArray::from(value.as_bytes().to_vec()))
                }
            }
            writer.close().unwrap();
        }
        group.close().unwrap();
        start = part.end;
    }
    writer.close().unwrap();
}

/// Writes row groups of a thousand rows: `id`, which rises, and a wide `text` of so many words that nothing shortens. Returns
/// the file's size.
pub fn write_wide(path: &Path, rows: u32, words: usize) -> u64 {
    let text = |row: u32| {
        // The same in every run.
        let mut state = u64::from(row).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            format!("{state:016x}")
        };
        Some((0..words).map(|_| next()).collect::<String>())
    };
    let columns = [
        ("id", Column::Int((0..rows).map(|row| Some(row.into())).collect())),
        ("text", Column::Text((0..rows).map(text).collect())),
    ];
    write(path, &columns, 1000);
    std::fs::metadata(path).unwrap().len()
}
