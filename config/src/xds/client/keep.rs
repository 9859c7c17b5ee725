//! What outlives the process: what was in force, as it came.

use std::collections::BTreeMap;
use std::sync::Arc;

use prost::Message;
use prost_types::Any;

use super::{Client, Codec, Held, Key, Refusal};
use crate::xds::Kind;
use crate::xds::wire::lighter::state::v1;

/// What was in force when it was taken.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Kept(v1::Discovery);

impl Kept {
    /// As bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        self.0.encode_to_vec()
    }

    /// From bytes. An error says what they are not.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, prost::DecodeError> {
        v1::Discovery::decode(bytes).map(Kept)
    }

    /// Whether it says nothing.
    pub fn is_empty(&self) -> bool {
        self.0.wanted.is_empty() && self.0.kinds.is_empty()
    }
}

impl<C: Codec> Client<C> {
    /// Takes down what is in force, with what it was wanted for.
    pub fn keep(&self) -> Kept {
        let wanted = self
            .wanted
            .iter()
            .map(|key| v1::Wanted { type_url: key.kind.url().into(), name: key.name.to_string() });
        let mut kinds = Vec::new();
        for kind in Kind::ALL {
            let of = |key: &&Key| key.kind == kind;
            let absent = self.absent.iter().filter(of).map(|key| key.name.to_string());
            let resources = self.in_force.iter().filter(|(key, _)| key.kind == kind);
            let kept = v1::Kind {
                type_url: kind.url().into(),
                version: if self.is_all_in_force(kind) {
                    self.version(kind).to_owned()
                } else {
                    String::new()
                },
                resources: resources
                    .map(|(_, held)| Any { type_url: kind.url().into(), value: held.message.clone() })
                    .collect(),
                absent: absent.collect(),
            };
            if !kept.resources.is_empty() || !kept.absent.is_empty() {
                kinds.push(kept);
            }
        }
        Kept(v1::Discovery { wanted: wanted.collect(), kinds })
    }

    /// Takes over what was kept, to be called before anything is wanted. Returns what this version refuses of it; the
    /// rest is in force.
    pub fn restore(&mut self, kept: &Kept) -> Vec<Refusal> {
        let mut refusals = Vec::new();
        for wanted in &kept.0.wanted {
            if let Some(kind) = Kind::of_url(&wanted.type_url) {
                self.wanted.insert(Key { kind, name: wanted.name.as_str().into() });
            }
        }
        for kept in &kept.0.kinds {
            let Some(kind) = Kind::of_url(&kept.type_url) else { continue };
            let mut is_whole = true;
            for any in &kept.resources {
                match self.codec.decode(kind, &any.value) {
                    Ok(decoded) => {
                        let key = Key { kind, name: decoded.name.clone() };
                        let held = Arc::new(Held { message: any.value.clone(), decoded });
                        // It was in force, so it is fit to be, even if something that it needs was to come back.
                        self.in_force.insert(key.clone(), held.clone());
                        self.held.insert(key, held);
                        self.revision += 1;
                    }
                    Err(refusal) => {
                        is_whole = false;
                        refusals.push(refusal);
                    }
                }
            }
            self.absent.extend(kept.absent.iter().map(|name| Key { kind, name: name.as_str().into() }));
            if is_whole {
                self.kinds[kind as usize].set_version(kept.version.clone());
            }
        }
        self.settle();
        refusals
    }

    /// Whether what is in force of a kind is what its version says.
    fn is_all_in_force(&self, kind: Kind) -> bool {
        let of = |map: &BTreeMap<Key, Arc<Held<C::Resource>>>| -> Vec<(Key, *const Held<C::Resource>)> {
            let of_kind = map.iter().filter(|(key, _)| key.kind == kind);
            of_kind.map(|(key, held)| (key.clone(), Arc::as_ptr(held))).collect()
        };
        of(&self.held) == of(&self.in_force) && !self.refused.keys().any(|key| key.kind == kind)
    }
}
