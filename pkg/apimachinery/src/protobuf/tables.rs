//! The fields of messages by number, made from a schema once.

use crate::schema::{NodeId, NodeKind, Schema};

/// Per node of an arena, its message.
#[derive(Debug, Default)]
pub(crate) struct WireTables {
    messages: Vec<Message>,
}

/// Fields of a message, ascending by number.
#[derive(Debug, Default)]
pub(super) struct Message {
    pub(super) fields: Vec<WireField>,
}

#[derive(Debug)]
pub(super) struct WireField {
    pub(super) number: u32,
    pub(super) target: Target,
}

#[derive(Debug)]
pub(super) enum Target {
    /// A field of the JSON object.
    Field {
        /// JSON name.
        name: Box<str>,
        /// Its type.
        node: NodeId,
        /// A zero is dropped when reading: the field is neither a pointer nor always printed.
        drops_zero: bool,
    },
    /// A message whose fields are those of the JSON object around it.
    Inline(Message),
}

impl WireTables {
    pub(crate) fn new(schema: &Schema) -> Self {
        let messages = schema
            .iter()
            .map(|(_, node)| {
                let mut message = Message::default();
                if let NodeKind::Object(object) = &node.kind {
                    for (name, field) in object.fields.iter().filter(|(_, f)| f.proto != 0) {
                        let target = Target::Field {
                            name: name.into(),
                            node: field.node,
                            drops_zero: !field.pointer && !field.always,
                        };
                        let through: Vec<u32> =
                            field.proto_inline.iter().copied().filter(|n| *n != 0).collect();
                        message.insert(&through, WireField { number: field.proto, target });
                    }
                }
                message
            })
            .collect();
        Self { messages }
    }

    pub(super) fn of(&self, id: NodeId) -> &Message {
        &self.messages[id.0 as usize]
    }
}

impl Message {
    fn insert(&mut self, through: &[u32], field: WireField) {
        let Some((number, deeper)) = through.split_first() else {
            let at = self.fields.partition_point(|f| f.number < field.number);
            self.fields.insert(at, field);
            return;
        };
        let at = self.fields.partition_point(|f| f.number < *number);
        if self.fields.get(at).is_none_or(|f| f.number != *number) {
            self.fields.insert(at, WireField { number: *number, target: Target::Inline(Self::default()) });
        }
        if let Target::Inline(inner) = &mut self.fields[at].target {
            inner.insert(deeper, field);
        }
    }

    pub(super) fn field(&self, number: u32) -> Option<&Target> {
        let at = self.fields.binary_search_by_key(&number, |f| f.number).ok()?;
        Some(&self.fields[at].target)
    }
}
