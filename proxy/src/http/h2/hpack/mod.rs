//! HPACK, the compression of fields in HTTP/2 (RFC 7541).
//!
//! Neither direction allocates for a field: a table's entries lie in one buffer, and what was Huffman-coded is decoded
//! into a scratch buffer that stays. What a peer can make grow is bounded: tables by their announced size, a list of
//! fields by the limit given with its block, and the work for a block by the block's own length.

mod decode;
mod encode;
mod huffman;
mod static_table;
mod table;

#[cfg(test)]
mod tests;

pub use self::decode::Decoder;
pub use self::encode::Encoder;

/// Size of both tables until something else is agreed on (RFC 9113 §6.5.2).
pub const DEFAULT_TABLE: usize = 4096;

/// What a field counts beside its bytes: in a table (RFC 7541 §4.1) and in a list of fields (RFC 9113 §6.5.2).
pub const FIELD_OVERHEAD: usize = 32;

/// Why a block's fields were not all taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal<E> {
    /// The block cannot be read, nor can any that follows on its connection: a connection error of type
    /// COMPRESSION_ERROR.
    Malformed(Malformed),
    /// The fields together are larger than the limit. The connection can go on.
    TooLarge,
    /// What the sink said to a field. The connection can go on.
    Field(E),
}

/// What is wrong with a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Malformed {
    /// It ends within a field.
    Cut,
    /// A number is larger than any has reason to be.
    Number,
    /// There is no field at an index.
    Index,
    /// A string is no Huffman code (RFC 7541 §5.2).
    Huffman,
    /// The table's size is changed after a field, or to more than was agreed on (RFC 7541 §4.2, §6.3).
    Resize,
}
