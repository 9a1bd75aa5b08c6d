//! The fields of messages by number, made from a schema once.

use crate::schema::{Field, NodeId, NodeKind, Schema};

/// The messages of a schema. In few blocks: they are made in the midst of requests and stay, and many small blocks among what
/// requests allocate would keep that memory from being given back.
#[derive(Debug, Default)]
pub(crate) struct WireTables {
    /// Those of every message, ascending by number.
    fields: Vec<WireField>,
    /// Where the fields of a message end, and those of the next begin: messages of nodes by the node's number, then those
    /// that are embedded.
    ends: Vec<u32>,
}

#[derive(Debug, Clone, Copy)]
struct WireField {
    number: u32,
    place: Place,
}

#[derive(Debug, Clone, Copy)]
enum Place {
    /// Among the fields of the object, in order of their names.
    Field(u32),
    /// Among the messages.
    Inline(u32),
}

/// The message of an object, or a part of one.
#[derive(Clone, Copy)]
pub(crate) struct Message<'s> {
    tables: &'s WireTables,
    fields: &'s [WireField],
    object: &'s [(Box<str>, Field)],
}

/// What a number stands for.
pub(super) enum Target<'s> {
    /// A field of the JSON object.
    Field(&'s str, &'s Field),
    /// A message whose fields are those of the JSON object around it.
    Inline(Message<'s>),
}

/// A message while the tables are made.
#[derive(Default)]
struct Draft(Vec<(u32, DraftTarget)>);

enum DraftTarget {
    Field(u32),
    Inline(Draft),
}

impl WireTables {
    pub(crate) fn new(schema: &Schema) -> Self {
        let mut tables = Self::default();
        let mut embedded = Vec::new();
        for (_, node) in schema.iter() {
            let mut draft = Draft::default();
            if let NodeKind::Object(object) = &node.kind {
                let fields = object.fields.as_slice().iter().enumerate();
                for (at, (_, field)) in fields.filter(|(_, (_, field))| field.proto != 0) {
                    let through: Vec<u32> = field.proto_inline.iter().copied().filter(|n| *n != 0).collect();
                    draft.insert(&through, field.proto, at as u32);
                }
            }
            tables.add(draft, schema.len(), &mut embedded);
        }
        // what is embedded in these comes after them, and what is embedded in that after it
        let mut next = 0;
        while next < embedded.len() {
            let draft = std::mem::take(&mut embedded[next]);
            tables.add(draft, schema.len(), &mut embedded);
            next += 1;
        }
        tables.fields.shrink_to_fit();
        tables.ends.shrink_to_fit();
        tables
    }

    /// Adds a message, and those in it to `embedded`, which are numbered from `first` on.
    fn add(&mut self, draft: Draft, first: usize, embedded: &mut Vec<Draft>) {
        for (number, target) in draft.0 {
            let place = match target {
                DraftTarget::Field(at) => Place::Field(at),
                DraftTarget::Inline(inner) => {
                    embedded.push(inner);
                    Place::Inline((first + embedded.len() - 1) as u32)
                }
            };
            self.fields.push(WireField { number, place });
        }
        self.ends.push(self.fields.len() as u32);
    }

    /// The message of a node of the schema that these tables are of.
    pub(crate) fn of<'s>(&'s self, schema: &'s Schema, id: NodeId) -> Message<'s> {
        let object = match &schema.node(id).kind {
            NodeKind::Object(object) => object.fields.as_slice(),
            _ => &[],
        };
        Message { tables: self, fields: self.fields(id.0), object }
    }

    fn fields(&self, message: u32) -> &[WireField] {
        let at = message as usize;
        let start = if at == 0 { 0 } else { self.ends[at - 1] };
        &self.fields[start as usize..self.ends[at] as usize]
    }
}

impl Draft {
    /// Adds a field at a place of the object, in the message that the numbers of the outer ones lead to.
    fn insert(&mut self, through: &[u32], number: u32, field: u32) {
        let Some((outer, deeper)) = through.split_first() else {
            let at = self.0.partition_point(|(n, _)| *n < number);
            self.0.insert(at, (number, DraftTarget::Field(field)));
            return;
        };
        let at = self.0.partition_point(|(n, _)| n < outer);
        if self.0.get(at).is_none_or(|(n, _)| n != outer) {
            self.0.insert(at, (*outer, DraftTarget::Inline(Self::default())));
        }
        if let DraftTarget::Inline(inner) = &mut self.0[at].1 {
            inner.insert(deeper, number, field);
        }
    }
}

impl<'s> Message<'s> {
    /// Its fields with their numbers, ascending.
    pub(super) fn fields(self) -> impl DoubleEndedIterator<Item = (u32, Target<'s>)> {
        self.fields.iter().map(move |field| (field.number, self.target(*field)))
    }

    pub(super) fn field(self, number: u32) -> Option<Target<'s>> {
        let at = self.fields.binary_search_by_key(&number, |field| field.number).ok()?;
        Some(self.target(self.fields[at]))
    }

    fn target(self, field: WireField) -> Target<'s> {
        match field.place {
            Place::Field(at) => {
                let (name, field) = &self.object[at as usize];
                Target::Field(name, field)
            }
            Place::Inline(message) => Target::Inline(Self { fields: self.tables.fields(message), ..self }),
        }
    }
}
