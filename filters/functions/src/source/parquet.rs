//! Parquet with flat columns, without the memory format of Arrow: only the wanted columns of a row group are read, page
//! by page, and a row group in which no row can be asked for is not read at all.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use bytes::Bytes;
use parquet::basic::{ConvertedType, LogicalType, Type};
use parquet::column::page::{Page, PageMetadata, PageReader};
use parquet::column::reader::{ColumnReaderImpl, get_typed_column_reader};
use parquet::data_type::{
    BoolType, ByteArray, ByteArrayType, DataType, DoubleType, FloatType, Int32Type, Int64Type,
};
use parquet::errors::ParquetError;
use parquet::file::metadata::{ColumnChunkMetaData, RowGroupMetaData};
use parquet::file::reader::{ChunkReader, FileReader, Length};
use parquet::file::serialized_reader::SerializedFileReader;
use parquet::file::statistics::Statistics;
use parquet::schema::types::ColumnDescriptor;

use super::{Go, Row, Source, Wanted, places};
use crate::condition::Condition;
use crate::meter::{Held, Meter};
use crate::range::{Bound, Range};
use crate::status::{Fault, Status};
use crate::value::Value;

/// Rows that are decoded at once.
const BATCH: usize = 1024;
/// Bytes that are read at once where it is not known how many are needed, as at a page's head.
const HEAD: usize = 512;

pub(super) struct Parquet {
    reader: SerializedFileReader<Counted>,
    /// Which columns of the file are wanted.
    places: Vec<usize>,
    columns: Vec<String>,
    /// On all columns of the file.
    condition: Option<Condition<usize>>,
    meter: Arc<Meter>,
}

impl Parquet {
    pub(super) fn open(file: File, wanted: &Wanted<'_>, meter: &Arc<Meter>) -> Result<Self, Fault> {
        let length = file.metadata().map_err(|error| Fault::data(error.to_string()))?.len();
        let reader =
            SerializedFileReader::new(Counted { file, length, meter: meter.clone() }).map_err(fault)?;
        let schema = reader.metadata().file_metadata().schema_descr();
        let there: Vec<String> = schema.columns().iter().map(|column| column.path().string()).collect();
        let places = places(wanted, &there)?;
        for place in &places {
            check(&schema.column(*place))?;
        }
        let condition = wanted.condition.map(|condition| {
            condition.map(&mut |name| there.iter().position(|column| column == name).ok_or(()))
        });
        let columns = places.iter().map(|place| there[*place].clone()).collect();
        // A column that there is none of was refused above.
        let condition = condition.and_then(Result::ok);
        Ok(Parquet { reader, places, columns, condition, meter: meter.clone() })
    }

    /// Whether no row of a group can be asked for.
    fn is_ruled_out(&self, group: &RowGroupMetaData) -> bool {
        let range = |place: usize| group.columns().get(place).map_or(Range::OPEN, range);
        self.condition.as_ref().is_some_and(|condition| !condition.may_take(&range))
    }

    /// Counts what of a group's bytes is not read.
    fn skip(&self, group: &RowGroupMetaData, is_read: bool) {
        let columns = group.columns().iter().enumerate();
        let skipped = columns.filter(|(place, _)| !is_read || !self.places.contains(place));
        let bytes = skipped.map(|(_, column)| u64::try_from(column.compressed_size()).unwrap_or(0)).sum();
        self.meter.skip(bytes);
    }

    /// Gives `take` the rows of a group.
    fn group(&self, group: usize, take: &mut dyn FnMut(Row<'_>) -> Result<Go, Fault>) -> Result<Go, Fault> {
        let reader = self.reader.get_row_group(group).map_err(fault)?;
        let schema = reader.metadata().schema_descr_ptr();
        let mut columns = Vec::with_capacity(self.places.len());
        for place in &self.places {
            let descriptor = schema.column(*place);
            let pages = reader.get_column_page_reader(*place).map_err(fault)?;
            let pages = Box::new(Pages::new(pages, &self.meter));
            let column = parquet::column::reader::get_column_reader(descriptor.clone(), pages);
            columns.push(Column::new(column, &descriptor, &self.meter)?);
        }
        let mut left = usize::try_from(reader.metadata().num_rows())
            .map_err(|_| Fault::data(format!("row group {group} has less than no rows")))?;
        while left > 0 {
            let count = left.min(BATCH);
            for column in &mut columns {
                column.read(count)?;
            }
            for row in 0..count {
                self.meter.row_in()?;
                let values: Vec<Value<'_>> =
                    columns.iter().map(|column| column.value(row)).collect::<Result<_, Fault>>()?;
                if take(Row { values: &values, line: "" })? == Go::Enough {
                    return Ok(Go::Enough);
                }
            }
            left -= count;
        }
        Ok(Go::On)
    }
}

impl Source for Parquet {
    fn columns(&self) -> &[String] {
        &self.columns
    }

    fn rows(&mut self, take: &mut dyn FnMut(Row<'_>) -> Result<Go, Fault>) -> Result<(), Fault> {
        for group in 0..self.reader.num_row_groups() {
            let metadata = self.reader.metadata().row_group(group);
            let is_read = !self.is_ruled_out(metadata);
            self.skip(metadata, is_read);
            if is_read && self.group(group, take)? == Go::Enough {
                return Ok(());
            }
        }
        Ok(())
    }
}

/// Whether the values of a column can be read here.
fn check(column: &ColumnDescriptor) -> Result<(), Fault> {
    let is_flat =
        column.max_rep_level() == 0 && column.max_def_level() <= 1 && column.path().parts().len() == 1;
    let logical = column.logical_type_ref();
    let plain = match (column.physical_type(), logical, column.converted_type()) {
        (Type::BOOLEAN | Type::FLOAT | Type::DOUBLE, None, _) => true,
        (Type::INT32 | Type::INT64, Some(LogicalType::Integer(integer)), _) => integer.is_signed,
        (
            Type::INT32 | Type::INT64,
            None,
            ConvertedType::NONE
            | ConvertedType::INT_8
            | ConvertedType::INT_16
            | ConvertedType::INT_32
            | ConvertedType::INT_64,
        ) => true,
        (Type::BYTE_ARRAY, Some(LogicalType::String | LogicalType::Enum | LogicalType::Json), _) => true,
        (Type::BYTE_ARRAY, None, ConvertedType::UTF8 | ConvertedType::ENUM | ConvertedType::JSON) => true,
        _ => false,
    };
    if is_flat && plain {
        return Ok(());
    }
    let name = column.path().string();
    let kind = if is_flat { format!("{}", column.physical_type()) } else { "a nested type".to_owned() };
    Err(Fault::new(
        Status::Unsupported,
        format!("column `{name}` is of {kind} with a meaning that is not read here: select other columns"),
    ))
}

/// Between what the values of a column lie in a row group.
fn range(column: &ColumnChunkMetaData) -> Range {
    let Some(statistics) = column.statistics() else { return Range::OPEN };
    let rows = u64::try_from(column.num_values()).ok();
    let nulls = statistics.null_count_opt();
    let has_null = column.column_descr().max_def_level() > 0 && nulls != Some(0);
    let has_value = nulls.is_none() || nulls != rows;
    let (least, most) = match statistics {
        Statistics::Boolean(of) => {
            (of.min_opt().map(|v| Bound::Bool(*v)), of.max_opt().map(|v| Bound::Bool(*v)))
        }
        Statistics::Int32(of) => {
            (of.min_opt().map(|v| Bound::Int((*v).into())), of.max_opt().map(|v| Bound::Int((*v).into())))
        }
        Statistics::Int64(of) => (of.min_opt().map(|v| Bound::Int(*v)), of.max_opt().map(|v| Bound::Int(*v))),
        Statistics::Float(of) => {
            (of.min_opt().map(|v| Bound::Float((*v).into())), of.max_opt().map(|v| Bound::Float((*v).into())))
        }
        Statistics::Double(of) => {
            (of.min_opt().map(|v| Bound::Float(*v)), of.max_opt().map(|v| Bound::Float(*v)))
        }
        // Old writers compared bytes as if they had a sign.
        Statistics::ByteArray(of) if !statistics.is_min_max_deprecated() => {
            let text = |bytes: &ByteArray| String::from_utf8(bytes.data().to_vec()).ok().map(Bound::Text);
            (of.min_opt().and_then(text), of.max_opt().and_then(text))
        }
        _ => (None, None),
    };
    Range { least, most, has_null, has_value }
}

/// One column of a row group, read batch by batch.
enum Column {
    Bool(Typed<BoolType>),
    Int32(Typed<Int32Type>),
    Int64(Typed<Int64Type>),
    Float(Typed<FloatType>),
    Double(Typed<DoubleType>),
    Text(Typed<ByteArrayType>),
}

/// A batch of a column's values.
struct Typed<T: DataType> {
    reader: ColumnReaderImpl<T>,
    /// Whether it has rows without a value.
    optional: bool,
    /// Those that are there.
    values: Vec<T::T>,
    /// For each row, whether it has a value.
    levels: Vec<i16>,
    /// For each row, which of the values is its.
    places: Vec<Option<u32>>,
    held: Held,
}

impl Column {
    fn new(
        reader: parquet::column::reader::ColumnReader,
        descriptor: &ColumnDescriptor,
        meter: &Arc<Meter>,
    ) -> Result<Self, Fault> {
        fn typed<T: DataType>(
            reader: parquet::column::reader::ColumnReader,
            descriptor: &ColumnDescriptor,
            meter: &Arc<Meter>,
        ) -> Typed<T> {
            Typed {
                reader: get_typed_column_reader(reader),
                optional: descriptor.max_def_level() > 0,
                values: Vec::new(),
                levels: Vec::new(),
                places: Vec::new(),
                held: Held::none(meter),
            }
        }
        Ok(match descriptor.physical_type() {
            Type::BOOLEAN => Column::Bool(typed(reader, descriptor, meter)),
            Type::INT32 => Column::Int32(typed(reader, descriptor, meter)),
            Type::INT64 => Column::Int64(typed(reader, descriptor, meter)),
            Type::FLOAT => Column::Float(typed(reader, descriptor, meter)),
            Type::DOUBLE => Column::Double(typed(reader, descriptor, meter)),
            Type::BYTE_ARRAY => Column::Text(typed(reader, descriptor, meter)),
            other => return Err(Fault::new(Status::Unsupported, format!("a column of {other}"))),
        })
    }

    fn read(&mut self, count: usize) -> Result<(), Fault> {
        match self {
            Column::Bool(column) => column.read(count),
            Column::Int32(column) => column.read(count),
            Column::Int64(column) => column.read(count),
            Column::Float(column) => column.read(count),
            Column::Double(column) => column.read(count),
            Column::Text(column) => column.read(count),
        }
    }

    fn value(&self, row: usize) -> Result<Value<'_>, Fault> {
        Ok(match self {
            Column::Bool(column) => column.get(row).map_or(Value::Null, |value| Value::Bool(*value)),
            Column::Int32(column) => column.get(row).map_or(Value::Null, |value| Value::Int((*value).into())),
            Column::Int64(column) => column.get(row).map_or(Value::Null, |value| Value::Int(*value)),
            Column::Float(column) => {
                column.get(row).map_or(Value::Null, |value| Value::Float((*value).into()))
            }
            Column::Double(column) => column.get(row).map_or(Value::Null, |value| Value::Float(*value)),
            Column::Text(column) => match column.get(row) {
                None => Value::Null,
                Some(bytes) => Value::Text(
                    std::str::from_utf8(bytes.data()).map_err(|_| Fault::data("a text is not UTF-8"))?,
                ),
            },
        })
    }
}

impl<T: DataType> Typed<T> {
    /// Reads the next `count` rows.
    fn read(&mut self, count: usize) -> Result<(), Fault> {
        self.values.clear();
        self.levels.clear();
        self.places.clear();
        let levels = self.optional.then_some(&mut self.levels);
        let (rows, there, _) =
            self.reader.read_records(count, levels, None, &mut self.values).map_err(fault)?;
        if rows != count || self.values.len() < there {
            return Err(Fault::data("a column ends before its row group does"));
        }
        if self.optional {
            let mut next = 0;
            self.places.extend(self.levels.iter().map(|level| {
                let place = (*level > 0).then_some(next);
                next += u32::from(*level > 0);
                place
            }));
        } else {
            self.places.extend((0..count as u32).map(Some));
        }
        // Texts themselves lie in pages, which are held by their reader.
        let each = size_of::<T::T>() + size_of::<Option<u32>>() + size_of::<i16>();
        self.held.at_least((count * each) as u64)
    }

    fn get(&self, row: usize) -> Option<&T::T> {
        self.places.get(row).copied().flatten().and_then(|place| self.values.get(place as usize))
    }
}

/// The pages of a column, of which the last one and the dictionary are held.
struct Pages {
    pages: Box<dyn PageReader>,
    page: Held,
    dictionary: Held,
}

impl Pages {
    fn new(pages: Box<dyn PageReader>, meter: &Arc<Meter>) -> Self {
        Pages { pages, page: Held::none(meter), dictionary: Held::none(meter) }
    }
}

impl PageReader for Pages {
    fn get_next_page(&mut self) -> Result<Option<Page>, ParquetError> {
        let page = self.pages.get_next_page()?;
        if let Some(page) = &page {
            let bytes = page.buffer().len() as u64;
            let held = match page {
                Page::DictionaryPage { .. } => &mut self.dictionary,
                Page::DataPage { .. } | Page::DataPageV2 { .. } => &mut self.page,
            };
            held.exactly(bytes).map_err(external)?;
        }
        Ok(page)
    }

    fn peek_next_page(&mut self) -> Result<Option<PageMetadata>, ParquetError> {
        self.pages.peek_next_page()
    }

    fn skip_next_page(&mut self) -> Result<(), ParquetError> {
        self.pages.skip_next_page()
    }
}

impl Iterator for Pages {
    type Item = Result<Page, ParquetError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.get_next_page().transpose()
    }
}

/// A file of which every byte is counted that is read.
struct Counted {
    file: File,
    length: u64,
    meter: Arc<Meter>,
}

impl Counted {
    /// Reads up to so many bytes from a place on.
    fn read(&self, start: u64, most: usize) -> Result<Vec<u8>, ParquetError> {
        let left = usize::try_from(self.length.saturating_sub(start)).unwrap_or(usize::MAX);
        let mut bytes = vec![0; most.min(left)];
        self.file.read_exact_at(&mut bytes, start)?;
        self.meter.read(bytes.len() as u64).map_err(external)?;
        Ok(bytes)
    }
}

impl Length for Counted {
    fn len(&self) -> u64 {
        self.length
    }
}

impl ChunkReader for Counted {
    type T = Heads;

    fn get_read(&self, start: u64) -> Result<Heads, ParquetError> {
        let file = Counted { file: self.file.try_clone()?, length: self.length, meter: self.meter.clone() };
        Ok(Heads { file, next: start, bytes: Vec::new(), taken: 0 })
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<Bytes, ParquetError> {
        // Before there is room for them: it may be more than there is.
        self.meter.hold(length as u64).map_err(external)?;
        self.meter.release(length as u64);
        let bytes = self.read(start, length)?;
        if bytes.len() != length {
            return Err(ParquetError::EOF(format!("{length} bytes at {start} are beyond the end")));
        }
        Ok(bytes.into())
    }
}

/// Reads a little at a time from some place on.
struct Heads {
    file: Counted,
    next: u64,
    bytes: Vec<u8>,
    taken: usize,
}

impl Read for Heads {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        if self.taken == self.bytes.len() {
            self.bytes = self.file.read(self.next, HEAD).map_err(std::io::Error::other)?;
            self.next += self.bytes.len() as u64;
            self.taken = 0;
        }
        let count = into.len().min(self.bytes.len() - self.taken);
        into[..count].copy_from_slice(&self.bytes[self.taken..self.taken + count]);
        self.taken += count;
        Ok(count)
    }
}

/// A fault on its way through the reader of Parquet.
fn external(fault: Fault) -> ParquetError {
    ParquetError::External(Box::new(fault))
}

/// What the reader of Parquet says; of a fault of ours, that.
fn fault(error: ParquetError) -> Fault {
    let mut source: Option<&(dyn std::error::Error + 'static)> = Some(&error);
    while let Some(inner) = source {
        if let Some(ours) = inner.downcast_ref::<Fault>() {
            return ours.clone();
        }
        if let Some(io) = inner.downcast_ref::<std::io::Error>().and_then(|io| io.get_ref()) {
            source = Some(io);
            continue;
        }
        source = inner.source();
    }
    let status = match &error {
        ParquetError::NYI(_) => Status::Unsupported,
        ParquetError::General(said) if said.contains("Disabled feature at compile time") => {
            Status::Unsupported
        }
        _ => Status::ErrorInExecution,
    };
    Fault::new(status, error.to_string())
}
