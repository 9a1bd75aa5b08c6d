//! Strategic merge patch: a merge patch that merges lists, led by the schema's patch strategies and by directives
//! inside the patch.
//!
//! Behaviour: `k8s.io/apimachinery/pkg/util/strategicpatch` as the server calls it (parallel lists merged, unmatched
//! nulls ignored). `current` and `patch` are consumed piece by piece; where Go's random map order would decide between
//! a field and its directives, the directives (`$...`, which sort first) win.

use std::collections::{BTreeMap, BTreeSet};

use super::gotext::{Plain, type_name};
use super::order::Ordered;
use crate::schema::{NodeId, NodeKind, PatchStrategy, Schema};
use crate::{Map, Value};

const DIRECTIVE: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const DELETE_FROM_LIST: &str = "$deleteFromPrimitiveList";
const SET_ORDER: &str = "$setElementOrder";

/// Why a patch does not apply; the texts are upstream's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "the texts say what each is")]
pub enum StrategicError {
    #[error("invalid patch format of primitive list")]
    PrimitiveListFormat,
    #[error("invalid patch format of retainKeys")]
    RetainKeysFormat,
    #[error("invalid patch format of setElementOrder list")]
    SetOrderFormat,
    #[error("lists of lists are not supported")]
    ListOfLists,
    #[error("map: {map} does not contain declared merge key: {key}")]
    NoMergeKey { map: String, key: String },
    #[error("expected a {expected}, but received a {actual}")]
    Type { expected: &'static str, actual: &'static str },
    #[error("unknown patch type: {directive} in map: {map}")]
    Directive { directive: String, map: String },
    #[error("merging lists cannot yet be specified in the patch")]
    MergeDirectiveInList,
    #[error("list element types are not identical: {0}")]
    MixedList(String),
    #[error("no elements in any of the given slices")]
    EmptyLists,
    #[error("value for key {0} is not a map")]
    ItemNotMap(usize),
    #[error("cannot merge lists without merge key for {0}")]
    NoMergeKeyDeclared(&'static str),
    #[error("The order in patch list:\n{patch}\n doesn't match $setElementOrder list:\n{order}\n")]
    Order { patch: String, order: String },
    #[error("unable to find api field in struct {of} for the json field {field:?}")]
    UnknownField { of: String, field: String },
    #[error("merging an object in json but data type is not struct, instead is: {0}")]
    NotStruct(&'static str),
    #[error("expected slice or array type, but got: struct")]
    NotList,
}

type Result<T> = std::result::Result<T, StrategicError>;

/// What the schema says of a field: its type (of the items, for a list) and how patches treat it.
struct Meta<'s> {
    node: NodeId,
    strategy: PatchStrategy,
    merge_key: &'s str,
}

impl Meta<'_> {
    fn merges_lists(&self) -> bool {
        matches!(self.strategy, PatchStrategy::Merge | PatchStrategy::MergeRetainKeys)
    }
}

/// A strategic merge under a schema.
pub(super) struct Merger<'s> {
    schema: &'s Schema,
}

impl<'s> Merger<'s> {
    pub(super) fn new(schema: &'s Schema) -> Self {
        Self { schema }
    }

    /// Merges `patch` into `current`, an object of type `node`.
    pub(super) fn merge(&self, mut current: Map, mut patch: Map, node: NodeId) -> Result<Map> {
        if let Some(directive) = patch.remove(DIRECTIVE) {
            return match directive.as_str() {
                Some("replace") => Ok(patch),
                Some("delete") => Ok(Map::new()),
                _ => {
                    patch.insert(DIRECTIVE.into(), directive.clone());
                    Err(bad_directive(&directive, patch))
                }
            };
        }
        retain_keys(&mut current, &mut patch)?;
        self.merge_ordered_lists(&mut current, &mut patch, node)?;
        for (key, value) in patch {
            let deletes = key.starts_with(DELETE_FROM_LIST);
            let key = if deletes {
                field_of(&key, DELETE_FROM_LIST).ok_or(StrategicError::PrimitiveListFormat)?.to_owned()
            } else {
                key.to_string()
            };
            if value.is_null() {
                current.remove(&key);
                continue;
            }
            let same_shape = matches!(
                (current.get(&key), &value),
                (Some(Value::Object(_)), Value::Object(_)) | (Some(Value::Array(_)), Value::Array(_))
            );
            if !same_shape {
                if !deletes {
                    set_or_drop(&mut current, key, discard_nulls(value));
                }
                continue;
            }
            let old = current.remove(&key);
            let merged = match (old, value) {
                (Some(Value::Object(old)), Value::Object(new)) => {
                    let meta = self.field(node, &key)?;
                    if meta.strategy == PatchStrategy::Replace {
                        Value::Object(new)
                    } else {
                        Value::Object(self.merge(old, new, meta.node)?)
                    }
                }
                (Some(Value::Array(old)), Value::Array(new)) => {
                    let meta = self.list(node, &key)?;
                    if meta.merges_lists() || deletes {
                        Value::Array(self.merge_list(old.into_vec(), new.into_vec(), &meta, deletes)?.into())
                    } else {
                        Value::Array(new)
                    }
                }
                (_, new) => new,
            };
            current.insert(key.into(), merged);
        }
        Ok(current)
    }

    /// Carries out `$setElementOrder/FIELD` together with the patch's FIELD, both of which it takes out of the patch.
    fn merge_ordered_lists(&self, current: &mut Map, patch: &mut Map, node: NodeId) -> Result<()> {
        let directives: Vec<String> =
            patch.keys().filter(|k| k.starts_with(SET_ORDER)).map(String::from).collect();
        for directive in directives {
            let order = match patch.remove(&directive) {
                Some(Value::Array(order)) => order,
                other => return Err(wrong_type("[]interface {}", &other.unwrap_or_default())),
            };
            let field = field_of(&directive, SET_ORDER).ok_or(StrategicError::SetOrderFormat)?;
            let (old, new) = (list_or_none(current, field)?, list_or_none(patch, field)?);
            let meta = self.list(node, field)?;
            check_order(new.map_or(&[], Vec::as_slice), &order, meta.merge_key)?;
            let kind = match (old, new) {
                (None, None) => continue,
                (old, new) => element_kind(&[old.map_or(&[], Vec::as_slice), new.map_or(&[], Vec::as_slice)]),
            };
            let server_order = order_left_behind(old, new, &meta);
            let merged = match (take_list(current, field), take_list(patch, field)) {
                (Some(old), None) => old,
                (None, Some(new)) => new.into_iter().filter_map(without_directives).collect(),
                (Some(old), Some(new)) if meta.merges_lists() => self.merge_list(old, new, &meta, false)?,
                (_, new) => new.unwrap_or_default(),
            };
            let merged = arrange(merged, &order, &server_order, meta.merge_key, kind)?;
            current.insert(field.into(), Value::Array(merged.into()));
        }
        Ok(())
    }

    fn merge_list(
        &self,
        old: Vec<Value>,
        new: Vec<Value>,
        meta: &Meta<'_>,
        deletes: bool,
    ) -> Result<Vec<Value>> {
        if old.is_empty() && new.is_empty() {
            return Ok(old);
        }
        if element_kind(&[&old, &new])? == Kind::Scalars {
            return Ok(merge_scalars(old, new, deletes));
        }
        if meta.merge_key.is_empty() {
            return Err(StrategicError::NoMergeKeyDeclared(self.kind_name(meta.node)));
        }
        let (old, new) = list_directives(old, new, meta.merge_key)?;
        let (order, server_order) = (keys_only(&new, meta.merge_key), keys_only(&old, meta.merge_key));
        let merged = self.merge_items(old, new, meta)?;
        arrange(merged, &order, &server_order, meta.merge_key, Ok(Kind::Maps))
    }

    /// Merges each item into the one with the same key, or appends it as it is.
    fn merge_items(&self, old: Vec<Value>, new: Vec<Value>, meta: &Meta<'_>) -> Result<Vec<Value>> {
        let mut slots: Vec<Option<Map>> = Vec::with_capacity(old.len() + new.len());
        let mut keys: Vec<Option<Value>> = Vec::with_capacity(old.len() + new.len());
        for (index, item) in old.into_iter().enumerate() {
            let Value::Object(item) = item else { return Err(StrategicError::ItemNotMap(index)) };
            keys.push(item.get(meta.merge_key).cloned());
            slots.push(Some(item));
        }
        let known = keys.len();
        for item in &new {
            keys.push(item.get(meta.merge_key).cloned());
        }
        // the first item of a key is the one merged into, be it an old one or one appended by this patch
        let mut first: BTreeMap<Ordered<'_>, usize> = BTreeMap::new();
        for (index, key) in keys[..known].iter().enumerate() {
            if let Some(key) = key {
                first.entry(Ordered(key)).or_insert(index);
            }
        }
        for (item, key) in new.into_iter().zip(&keys[known..]) {
            let Value::Object(item) = item else { return Err(wrong_type("map[string]interface {}", &item)) };
            let Some(key) = key else { return Err(no_merge_key(item, meta.merge_key)) };
            let next = slots.len();
            let slot = *first.entry(Ordered(key)).or_insert(next);
            if slot == next {
                slots.push(Some(item));
            } else {
                let target = slots[slot].take().unwrap_or_default();
                slots[slot] = Some(self.merge(target, item, meta.node)?);
            }
        }
        Ok(slots.into_iter().flatten().map(Value::Object).collect())
    }

    /// Meta of a field whose value is an object (or whatever: the type is that of the value itself).
    fn field(&self, node: NodeId, key: &str) -> Result<Meta<'s>> {
        let of = self.schema.node(node);
        match &of.kind {
            NodeKind::Object(object) => match object.fields.get(key) {
                Some(field) => Ok(Meta {
                    node: field.node,
                    strategy: field.patch_strategy,
                    merge_key: &field.patch_merge_key,
                }),
                None => Err(unknown_field(&of.name, key)),
            },
            NodeKind::Map { .. } => Err(StrategicError::NotStruct("map")),
            NodeKind::Raw => Err(unknown_field(&of.name, key)),
            NodeKind::List(_) => Err(StrategicError::NotStruct("slice")),
            NodeKind::Scalar(_) => Err(StrategicError::NotStruct("string")),
        }
    }

    /// Meta of a field whose value is a list; the type is that of its items.
    fn list(&self, node: NodeId, key: &str) -> Result<Meta<'s>> {
        let meta = self.field(node, key)?;
        match &self.schema.node(meta.node).kind {
            NodeKind::List(list) => Ok(Meta { node: list.item, ..meta }),
            _ => Err(StrategicError::NotList),
        }
    }

    fn kind_name(&self, node: NodeId) -> &'static str {
        match &self.schema.node(node).kind {
            NodeKind::Object(_) | NodeKind::Raw => "struct",
            NodeKind::Map { .. } => "map",
            NodeKind::List(_) => "slice",
            NodeKind::Scalar(_) => "string",
        }
    }
}

/// What the items of a list are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Scalars,
    Maps,
}

fn unknown_field(of: &str, key: &str) -> StrategicError {
    StrategicError::UnknownField { of: of.rsplit('.').next().unwrap_or(of).to_owned(), field: key.to_owned() }
}

fn wrong_type(expected: &'static str, actual: &Value) -> StrategicError {
    StrategicError::Type { expected, actual: type_name(actual) }
}

fn no_merge_key(map: Map, key: &str) -> StrategicError {
    StrategicError::NoMergeKey { map: Plain(&Value::Object(map)).to_string(), key: key.to_owned() }
}

fn bad_directive(directive: &Value, map: Map) -> StrategicError {
    StrategicError::Directive {
        directive: Plain(directive).to_string(),
        map: Plain(&Value::Object(map)).to_string(),
    }
}

/// FIELD of `PREFIX/FIELD`.
fn field_of<'k>(key: &'k str, prefix: &str) -> Option<&'k str> {
    key.strip_prefix(prefix)?.strip_prefix('/')
}

fn list_or_none<'m>(map: &'m Map, key: &str) -> Result<Option<&'m Vec<Value>>> {
    match map.get(key) {
        None => Ok(None),
        Some(Value::Array(list)) => Ok(Some(list)),
        Some(other) => Err(wrong_type("[]interface {}", other)),
    }
}

fn take_list(map: &mut Map, key: &str) -> Option<Vec<Value>> {
    match map.remove(key) {
        Some(Value::Array(list)) => Some(list.into_vec()),
        _ => None,
    }
}

fn set_or_drop(map: &mut Map, key: String, value: Value) {
    match without_directives(value) {
        Some(value) => map.insert(key.into(), value),
        None => map.remove(&key),
    };
}

/// `$retainKeys`: drops what it does not list; everything the patch sets must be listed.
fn retain_keys(current: &mut Map, patch: &mut Map) -> Result<()> {
    let Some(directive) = patch.remove(RETAIN_KEYS) else { return Ok(()) };
    let Value::Array(listed) = directive else { return Err(StrategicError::RetainKeysFormat) };
    let listed: BTreeSet<&str> = listed.iter().filter_map(Value::as_str).collect();
    let all_listed = patch.iter().all(|(key, value)| {
        value.is_null()
            || key.starts_with(DELETE_FROM_LIST)
            || key.starts_with(SET_ORDER)
            || listed.contains(key.as_str())
    });
    if !all_listed {
        return Err(StrategicError::RetainKeysFormat);
    }
    current.retain(|key, _| listed.contains(key.as_str()));
    Ok(())
}

/// Items with `$patch` are instructions: deletes remove the old items of their key, one `replace` drops all old ones.
/// Answers the old items left and the new ones to merge.
fn list_directives(
    mut old: Vec<Value>,
    new: Vec<Value>,
    merge_key: &str,
) -> Result<(Vec<Value>, Vec<Value>)> {
    let mut plain = Vec::with_capacity(new.len());
    let mut deleted = Vec::new();
    let mut replace = false;
    for item in new {
        let Value::Object(mut map) = item else { return Err(wrong_type("map[string]interface {}", &item)) };
        let directive = map.get(DIRECTIVE).cloned();
        match directive.as_ref().map(Value::as_str) {
            None => plain.push(Value::Object(map)),
            Some(Some("delete")) => match map.remove(merge_key) {
                Some(key) => deleted.push(key),
                None => return Err(no_merge_key(map, merge_key)),
            },
            Some(Some("replace")) => replace = true,
            Some(Some("merge")) => return Err(StrategicError::MergeDirectiveInList),
            Some(_) => return Err(bad_directive(&directive.unwrap_or_default(), map)),
        }
    }
    if !deleted.is_empty() {
        if let Some(index) = old.iter().position(|item| !item.is_object()) {
            return Err(StrategicError::ItemNotMap(index));
        }
        let deleted: BTreeSet<Ordered<'_>> = deleted.iter().map(Ordered).collect();
        old.retain(|item| item.get(merge_key).is_none_or(|key| !deleted.contains(&Ordered(key))));
    }
    if replace { Ok((plain, Vec::new())) } else { Ok((old, plain)) }
}

/// The server's order that `$setElementOrder` is reconciled with: the old items, less those the patch deletes. As many
/// of the patch's additions as it deletes take their places at the end of it: upstream reuses the list's memory, and
/// its results depend on that.
fn order_left_behind(old: Option<&Vec<Value>>, new: Option<&Vec<Value>>, meta: &Meta<'_>) -> Vec<Value> {
    let old = old.map_or(&[][..], Vec::as_slice);
    let new = new.map_or(&[][..], Vec::as_slice);
    if meta.merge_key.is_empty() || !meta.merges_lists() {
        return old.to_vec();
    }
    let is_deletion = |item: &&Value| item.get(DIRECTIVE).and_then(Value::as_str) == Some("delete");
    let key = |item| key_of(item, meta.merge_key).map(Ordered);
    let deleted: BTreeSet<Ordered<'_>> = new.iter().filter(is_deletion).filter_map(key).collect();
    let (gone, kept): (Vec<&Value>, Vec<&Value>) =
        old.iter().partition(|item| key(item).is_some_and(|key| deleted.contains(&key)));
    let known: BTreeSet<Ordered<'_>> = kept.iter().filter_map(|item| key(item)).collect();
    let added = new
        .iter()
        .filter(|item| item.get(DIRECTIVE).is_none())
        .filter(|item| key(item).is_some_and(|key| !known.contains(&key)))
        .take(gone.len());
    kept.iter().copied().chain(added).cloned().collect()
}

/// Lists of scalars merge as sets and delete as sets.
fn merge_scalars(old: Vec<Value>, new: Vec<Value>, deletes: bool) -> Vec<Value> {
    let named: BTreeSet<Ordered<'_>> = new.iter().map(Ordered).collect();
    if deletes {
        return old.into_iter().filter(|item| !named.contains(&Ordered(item))).collect();
    }
    let mut seen = BTreeSet::new();
    let all: Vec<&Value> = old.iter().chain(&new).filter(|item| seen.insert(Ordered(item))).collect();
    let position = positions(&old, "");
    let order = positions(&new, "");
    let (mut from_patch, server_only): (Vec<&Value>, Vec<&Value>) =
        all.into_iter().partition(|item| named.contains(&Ordered(item)));
    from_patch.sort_by_key(|item| order.get(&Ordered(item)));
    interleave(server_only, from_patch, |item| position.get(&Ordered(item)).copied())
        .into_iter()
        .cloned()
        .collect()
}

/// The order lists end up in: items that `order` names in its order, the rest in `server_order`, the two interleaved
/// by `server_order` where it knows both.
fn arrange(
    items: Vec<Value>,
    order: &[Value],
    server_order: &[Value],
    merge_key: &str,
    kind: Result<Kind>,
) -> Result<Vec<Value>> {
    if !merge_key.is_empty() {
        for item in &items {
            require_key(item, merge_key)?;
        }
    }
    let kind = kind?;
    let identity = if kind == Kind::Maps { merge_key } else { "" };
    if kind == Kind::Maps {
        for item in items.iter().chain(order).chain(server_order) {
            require_key(item, merge_key)?;
        }
    }
    let wanted = positions(order, identity);
    let served = positions(server_order, identity);
    let place = |at: &BTreeMap<Ordered<'_>, usize>, item: &Value| {
        key_of(item, identity).and_then(|key| at.get(&Ordered(key)).copied())
    };
    let (mut from_patch, mut server_only): (Vec<Value>, Vec<Value>) =
        items.into_iter().partition(|item| place(&wanted, item).is_some());
    from_patch.sort_by_key(|item| place(&wanted, item));
    server_only.sort_by_key(|item| place(&served, item).unwrap_or(usize::MAX));
    Ok(interleave(server_only, from_patch, |item| place(&served, item)))
}

/// Merges two lists whose own orders stand: a server-only item goes before the first patch item that the server had
/// after it.
fn interleave<T>(server_only: Vec<T>, from_patch: Vec<T>, place: impl Fn(&T) -> Option<usize>) -> Vec<T> {
    let mut merged = Vec::with_capacity(server_only.len() + from_patch.len());
    let mut server_only = server_only.into_iter().peekable();
    for item in from_patch {
        let at = place(&item);
        while let (Some(next), Some(at)) = (server_only.peek().map(&place), at) {
            if next.is_some_and(|next| next < at) {
                merged.extend(server_only.next());
            } else {
                break;
            }
        }
        merged.push(item);
    }
    merged.extend(server_only);
    merged
}

/// Where each value (or, with a merge key, each key) first stands in a list.
fn positions<'v>(list: &'v [Value], merge_key: &str) -> BTreeMap<Ordered<'v>, usize> {
    let mut at = BTreeMap::new();
    for (index, item) in list.iter().enumerate() {
        if let Some(key) = key_of(item, merge_key) {
            at.entry(Ordered(key)).or_insert(index);
        }
    }
    at
}

fn key_of<'v>(item: &'v Value, merge_key: &str) -> Option<&'v Value> {
    if merge_key.is_empty() { Some(item) } else { item.get(merge_key) }
}

/// The items with nothing but their merge keys, to remember an order by.
fn keys_only(items: &[Value], merge_key: &str) -> Vec<Value> {
    items
        .iter()
        .filter_map(|item| {
            let key = item.get(merge_key)?.clone();
            Some(Value::Object(Map::from_iter([(merge_key.to_owned(), key)])))
        })
        .collect()
}

fn require_key(item: &Value, merge_key: &str) -> Result<()> {
    match item {
        Value::Object(map) if map.contains_key(merge_key) => Ok(()),
        Value::Object(map) => Err(no_merge_key(map.clone(), merge_key)),
        other => Err(wrong_type("map[string]interface {}", other)),
    }
}

/// All items of all lists must be of one type, and none a list.
fn element_kind(lists: &[&[Value]]) -> Result<Kind> {
    let mut items = lists.iter().flat_map(|list| list.iter());
    let first = items.next().ok_or(StrategicError::EmptyLists)?;
    if first.is_array() {
        return Err(StrategicError::ListOfLists);
    }
    if first.is_null() || items.any(|item| type_name(item) != type_name(first)) {
        let shown: Vec<String> =
            lists.iter().map(|list| Plain(&Value::Array(list.to_vec().into())).to_string()).collect();
        return Err(StrategicError::MixedList(format!("[{}]", shown.join(" "))));
    }
    Ok(if first.is_object() { Kind::Maps } else { Kind::Scalars })
}

/// `$setElementOrder` must name every item the patch sets, in the patch's order.
fn check_order(patch: &[Value], order: &[Value], merge_key: &str) -> Result<()> {
    if patch.is_empty() || order.is_empty() {
        return Ok(());
    }
    if !merge_key.is_empty()
        && let Some(other) = patch.iter().find(|item| !item.is_object())
    {
        return Err(wrong_type("map[string]interface {}", other));
    }
    let mut order_left = order.iter();
    for item in patch.iter().filter(|item| item.get(DIRECTIVE).is_none()) {
        if !merge_key.is_empty() {
            require_key(item, merge_key)?;
        }
        loop {
            let Some(next) = order_left.next() else {
                return Err(StrategicError::Order {
                    patch: Plain(&Value::Array(patch.to_vec().into())).to_string(),
                    order: Plain(&Value::Array(order.to_vec().into())).to_string(),
                });
            };
            if !merge_key.is_empty() {
                require_key(next, merge_key)?;
            }
            if key_of(next, merge_key) == key_of(item, merge_key) {
                break;
            }
        }
    }
    Ok(())
}

/// A new value without the parts that are directives to what it would have been merged into; `None` when it is one.
fn without_directives(value: Value) -> Option<Value> {
    match value {
        Value::Object(map) if map.contains_key(DIRECTIVE) => None,
        Value::Object(map) => Some(
            map.into_iter()
                .filter_map(|(key, value)| Some((key, without_directives(value)?)))
                .collect::<Map>()
                .into(),
        ),
        Value::Array(items) => Some(items.into_iter().filter_map(without_directives).collect()),
        other => Some(other),
    }
}

/// A new value without null members of its objects.
fn discard_nulls(value: Value) -> Value {
    match value {
        Value::Object(map) => map
            .into_iter()
            .filter(|(_, value)| !value.is_null())
            .map(|(key, value)| (key, discard_nulls(value)))
            .collect::<Map>()
            .into(),
        Value::Array(items) => items.into_iter().map(discard_nulls).collect(),
        other => other,
    }
}
