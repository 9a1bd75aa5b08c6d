//! What the creator of an object owns, in the form in which it is recorded.
//!
//! A new object differs from a blank one in nearly everything it says. Comparing the two and going through sets says who
//! owns what; this says the same in one walk, and leaves to the sets what is out of the ordinary.

use super::{Identity, MapShape, Shape, Type, Typed, entries, items};
use crate::managedfields::fieldpath::Set;
use crate::patch::equal;
use crate::{Key, Map, Value, text};

/// Deepest path that is written here; the sets know what becomes of deeper ones.
const MAX_DEPTH: usize = super::MAX_OWNED_DEPTH - 10;

/// It takes the sets to tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::managedfields) struct Unusual;

/// Fields that have no owner, with all below them.
#[derive(Debug, Clone, Copy, Default)]
pub(in crate::managedfields) struct Unowned<'s>(pub(in crate::managedfields) [Option<&'s Set>; 2]);

impl Unowned<'_> {
    /// What of them is below a field; `None` when the field is one.
    fn below(self, name: &str) -> Option<Self> {
        let mut below = Self::default();
        for (part, below) in self.0.iter().zip(&mut below.0) {
            let Some(entry) = part.and_then(|set| set.get_field(name)) else { continue };
            if entry.member {
                return None;
            }
            *below = Some(&entry.children);
        }
        Some(below)
    }

    fn is_empty(self) -> bool {
        self.0.iter().flatten().all(|set| set.is_empty())
    }
}

/// Where a walk is.
#[derive(Clone, Copy)]
struct At<'s> {
    depth: usize,
    unowned: Unowned<'s>,
}

impl At<'_> {
    fn field(self, name: &str) -> Result<Option<Self>, Unusual> {
        if self.depth == MAX_DEPTH {
            return Err(Unusual);
        }
        Ok(self.unowned.below(name).map(|unowned| Self { depth: self.depth + 1, unowned }))
    }

    fn item(self) -> Result<Self, Unusual> {
        if self.depth == MAX_DEPTH || !self.unowned.is_empty() {
            return Err(Unusual);
        }
        Ok(Self { depth: self.depth + 1, ..self })
    }
}

/// Members of a FieldsV1 object.
type Fields = Vec<(Key, Value)>;

fn tree(fields: Fields) -> Value {
    Value::Object(Map::from_members(fields).0)
}

/// What is below an element that is a member begins with this, which is left out where nothing follows.
fn member() -> (Key, Value) {
    (".".into(), Value::Object(Map::new()))
}

impl Typed<'_> {
    /// FieldsV1 of what `new` has or says differently than `blank`, both of type `ty`, but for what is unowned.
    ///
    /// # Errors
    /// [`Unusual`].
    pub(in crate::managedfields) fn created(
        self,
        ty: Type,
        blank: &Value,
        new: &Value,
        unowned: Unowned<'_>,
    ) -> Result<Value, Unusual> {
        let mut below = Fields::new();
        self.differing(ty, blank, new, At { depth: 0, unowned }, &mut below)?;
        Ok(tree(below))
    }

    /// Fills in what is below a value that both have; true when they are leaves that differ.
    fn differing(
        self,
        ty: Type,
        old: &Value,
        new: &Value,
        at: At<'_>,
        below: &mut Fields,
    ) -> Result<bool, Unusual> {
        let shape = self.shape(ty, new);
        if std::mem::discriminant(&self.shape(ty, old)) != std::mem::discriminant(&shape) {
            return Err(Unusual);
        }
        if shape.is_leaf() {
            return Ok(!equal(old, new));
        }
        match shape {
            Shape::Map(map) => {
                let (was, now) = (entries(old), entries(new));
                if was.is_none() && now.is_none() {
                    return Ok(!equal(old, new));
                }
                self.fields(&map, was, now, at, below)?;
            }
            Shape::List { item, identity } => match (items(old), items(new)) {
                (None, None) => return Ok(!equal(old, new)),
                (None, Some(now)) => self.items_of(item, identity, now, at, below)?,
                (Some(_), _) => return Err(Unusual),
            },
            Shape::Leaf(_) => {}
        }
        Ok(false)
    }

    fn fields(
        self,
        shape: &MapShape<'_>,
        old: Option<&Map>,
        new: Option<&Map>,
        at: At<'_>,
        into: &mut Fields,
    ) -> Result<(), Unusual> {
        for (name, value) in new.into_iter().flatten() {
            let Some(at) = at.field(name)? else { continue };
            let ty = shape.child(name);
            let record = match old.and_then(|old| old.get(name)) {
                None => self.all_new(ty, value, at)?,
                Some(old) => {
                    let mut below = Fields::new();
                    let is_member = self.differing(ty, old, value, at, &mut below)?;
                    if !is_member && below.is_empty() {
                        continue;
                    }
                    // leaves have nothing below them
                    tree(below)
                }
            };
            into.push((field_key(name), record));
        }
        Ok(())
    }

    /// The record of a value that only the new object has.
    fn all_new(self, ty: Type, value: &Value, at: At<'_>) -> Result<Value, Unusual> {
        let shape = self.shape(ty, value);
        if shape.is_leaf() {
            return Ok(Value::Object(Map::new()));
        }
        let mut below;
        match shape {
            Shape::Map(map) => {
                let Some(entries) = entries(value) else { return Ok(Value::Object(Map::new())) };
                below = Fields::with_capacity(entries.len() + 1);
                below.push(member());
                self.fields(&map, None, Some(entries), at, &mut below)?;
            }
            Shape::List { item, identity } => {
                let Some(items) = items(value) else { return Ok(Value::Object(Map::new())) };
                below = Fields::with_capacity(items.len() + 1);
                below.push(member());
                self.items_of(item, identity, items, at, &mut below)?;
            }
            Shape::Leaf(_) => return Ok(Value::Object(Map::new())),
        }
        if below.len() == 1 {
            below.clear();
        }
        Ok(tree(below))
    }

    fn items_of(
        self,
        item: Type,
        identity: Identity<'_>,
        values: &[Value],
        at: At<'_>,
        into: &mut Fields,
    ) -> Result<(), Unusual> {
        let at = at.item()?;
        let mut before: Option<(&Value, Value)> = None;
        for value in values {
            // many items say the same of themselves, and share what is said
            let record = match before.take() {
                Some((other, record)) if alike(other, value) => record,
                _ => self.all_new(item, value, at)?,
            };
            into.push((self.item_key(item, identity, value)?, record.clone()));
            before = Some((value, record));
        }
        into.sort_by(|(a, _), (b, _)| a.cmp(b));
        // items that occur twice are members with nothing below them
        into.dedup_by(|later, kept| {
            let same = later.0 == kept.0;
            if same {
                kept.1 = Value::Object(Map::new());
            }
            same
        });
        Ok(())
    }

    /// The key of an item, which `element` says as a path element.
    fn item_key(self, item: Type, identity: Identity<'_>, value: &Value) -> Result<Key, Unusual> {
        match (identity, value) {
            (Identity::Keys(names), Value::Object(map)) => {
                let mut fields: Vec<(&str, &Value)> = names
                    .iter()
                    .filter_map(|name| {
                        Some((&**name, map.get(name).or_else(|| self.default_of(item, name))?))
                    })
                    .collect();
                if fields.is_empty() {
                    return Err(Unusual);
                }
                fields.sort_unstable_by_key(|(name, _)| *name);
                let mut key = String::with_capacity(48);
                for (i, (name, value)) in fields.into_iter().enumerate() {
                    key.push_str(if i == 0 { "k:{" } else { "," });
                    text::string(name, &mut key);
                    key.push(':');
                    push_plain(value, &mut key)?;
                }
                key.push('}');
                Ok(key.into())
            }
            (Identity::Value, value) => {
                let mut key = String::from("v:");
                push_plain(value, &mut key)?;
                Ok(key.into())
            }
            _ => Err(Unusual),
        }
    }
}

/// Two values of one type have the same record: they have the same members, down to what is no member.
fn alike(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|((ka, a), (kb, b))| ka == kb && alike(a, b))
        }
        // items are known by what they say
        (Value::Array(_), _) | (_, Value::Array(_)) => a == b,
        _ => std::mem::discriminant(a) == std::mem::discriminant(b),
    }
}

fn field_key(name: &str) -> Key {
    // names are short, and their keys are most often known already
    const SHORT: usize = 62;
    let mut key = [0; SHORT + 2];
    match key.get_mut(..name.len() + 2) {
        Some(key) => {
            key[..2].copy_from_slice(b"f:");
            key[2..].copy_from_slice(name.as_bytes());
            std::str::from_utf8(key).map_or_else(|_| format!("f:{name}").into(), Key::from)
        }
        None => format!("f:{name}").into(),
    }
}

/// Appends a value that has one JSON form only.
fn push_plain(value: &Value, out: &mut String) -> Result<(), Unusual> {
    let is_plain = match value {
        Value::Bool(_) => true,
        Value::Number(number) => !number.is_f64(),
        // Go writes these otherwise than we do
        Value::String(text) => !text.contains(['<', '>', '&', '\u{2028}', '\u{2029}']),
        _ => false,
    };
    if !is_plain {
        return Err(Unusual);
    }
    text::value(value, out);
    Ok(())
}
