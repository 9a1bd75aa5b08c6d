//! The informer's store: objects by namespace and name, secondary indexes, and the handlers told of every change.
//!
//! The core knows no kind: objects are `Arc<dyn Any>`, so one copy of the code serves every resource. [`Store`] and
//! [`Event`] are the typed view of it.

use std::any::Any;
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

use parking_lot::{Mutex, RwLock};

pub(crate) type Object = Arc<dyn Any + Send + Sync>;
type IndexFn = Box<dyn Fn(&Object) -> Vec<String> + Send + Sync>;
type Handler = Box<dyn Fn(&CoreEvent) + Send + Sync>;

/// A decoded object with what the store must know of it.
#[derive(Clone)]
pub(crate) struct Decoded {
    pub(crate) object: Object,
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) uid: String,
    pub(crate) resource_version: String,
}

/// What happened to one object, kind erased.
#[derive(Clone)]
pub(crate) enum CoreEvent {
    Added(Object),
    Updated { old: Object, new: Object },
    Deleted(Object),
}

/// What happened to one object. An object deleted and created anew under its name always arrives as `Deleted` of the
/// old followed by `Added` of the new one, even when the deletion itself was missed.
#[derive(Debug)]
pub enum Event<K> {
    /// The object is new to this informer (or the handler was registered after it).
    Added(Arc<K>),
    /// The object changed. Both versions have the same uid.
    Updated {
        /// The version held before.
        old: Arc<K>,
        /// The version held now.
        new: Arc<K>,
    },
    /// The object is gone; its last state known. After a broken watch this may be older than its final state.
    Deleted(Arc<K>),
}

impl<K> Event<K> {
    /// The object as last known.
    pub fn object(&self) -> &Arc<K> {
        match self {
            Self::Added(object) | Self::Updated { new: object, .. } | Self::Deleted(object) => object,
        }
    }
}

impl<K> Clone for Event<K> {
    fn clone(&self) -> Self {
        match self {
            Self::Added(object) => Self::Added(object.clone()),
            Self::Updated { old, new } => Self::Updated { old: old.clone(), new: new.clone() },
            Self::Deleted(object) => Self::Deleted(object.clone()),
        }
    }
}

struct Entry {
    object: Object,
    uid: String,
    resource_version: String,
}

struct Index {
    function: IndexFn,
    values: HashMap<String, BTreeMap<(String, String), Object>>,
}

impl Index {
    fn insert(&mut self, namespace: &str, name: &str, object: &Object) {
        for value in (self.function)(object) {
            self.values
                .entry(value)
                .or_default()
                .insert((namespace.to_owned(), name.to_owned()), object.clone());
        }
    }

    fn remove(&mut self, namespace: &str, name: &str, object: &Object) {
        let key = (namespace.to_owned(), name.to_owned());
        for value in (self.function)(object) {
            if let Some(objects) = self.values.get_mut(&value) {
                objects.remove(&key);
                if objects.is_empty() {
                    self.values.remove(&value);
                }
            }
        }
    }
}

#[derive(Default)]
struct Objects {
    by_namespace: BTreeMap<String, BTreeMap<String, Entry>>,
    indexes: HashMap<&'static str, Index>,
    count: usize,
}

impl Objects {
    fn put(&mut self, decoded: Decoded) -> Vec<CoreEvent> {
        let Decoded { object, namespace, name, uid, resource_version } = decoded;
        let entry = Entry { object: object.clone(), uid, resource_version };
        let names = match self.by_namespace.get_mut(&namespace) {
            Some(names) => names,
            None => self.by_namespace.entry(namespace.clone()).or_default(),
        };
        let events = match names.get_mut(&name) {
            None => {
                names.insert(name.clone(), entry);
                self.count += 1;
                vec![CoreEvent::Added(object.clone())]
            }
            Some(held) => {
                let same_object = held.uid == entry.uid;
                if same_object && held.resource_version == entry.resource_version {
                    return Vec::new();
                }
                let old = std::mem::replace(held, entry).object;
                for index in self.indexes.values_mut() {
                    index.remove(&namespace, &name, &old);
                }
                if same_object {
                    vec![CoreEvent::Updated { old, new: object.clone() }]
                } else {
                    vec![CoreEvent::Deleted(old), CoreEvent::Added(object.clone())]
                }
            }
        };
        for index in self.indexes.values_mut() {
            index.insert(&namespace, &name, &object);
        }
        events
    }

    fn remove(&mut self, namespace: &str, name: &str) -> Option<Object> {
        let names = self.by_namespace.get_mut(namespace)?;
        let entry = names.remove(name)?;
        if names.is_empty() {
            self.by_namespace.remove(namespace);
        }
        self.count -= 1;
        for index in self.indexes.values_mut() {
            index.remove(namespace, name, &entry.object);
        }
        Some(entry.object)
    }

    fn all(&self) -> impl Iterator<Item = &Object> {
        self.by_namespace.values().flat_map(|names| names.values().map(|entry| &entry.object))
    }
}

/// The store of one informer. Writers come one at a time (its reflector); readers never wait for handlers.
#[derive(Default)]
pub(crate) struct StoreCore {
    objects: RwLock<Objects>,
    /// Held while a change is applied and told, so that every handler sees every change once and in order.
    handlers: Mutex<Vec<Handler>>,
}

impl StoreCore {
    /// Adds or changes one object and tells the handlers.
    pub(crate) fn put(&self, decoded: Decoded) {
        let handlers = self.handlers.lock();
        let events = self.objects.write().put(decoded);
        tell(&handlers, &events);
    }

    /// Removes an object. `last` is the final state the server sent; handlers get that rather than the held one.
    pub(crate) fn delete(&self, last: Decoded) {
        let handlers = self.handlers.lock();
        let removed = self.objects.write().remove(&last.namespace, &last.name);
        if removed.is_some() {
            tell(&handlers, &[CoreEvent::Deleted(last.object)]);
        }
    }

    /// Makes the store hold exactly `listed`: what is missing there was deleted while nobody watched.
    pub(crate) fn replace(&self, listed: Vec<Decoded>) {
        let handlers = self.handlers.lock();
        let mut events = Vec::new();
        {
            let mut objects = self.objects.write();
            let vanished: Vec<(String, String)> = {
                let keep: std::collections::HashSet<(&str, &str)> =
                    listed.iter().map(|item| (item.namespace.as_str(), item.name.as_str())).collect();
                objects
                    .by_namespace
                    .iter()
                    .flat_map(|(namespace, names)| names.keys().map(move |name| (namespace, name)))
                    .filter(|(namespace, name)| !keep.contains(&(namespace.as_str(), name.as_str())))
                    .map(|(namespace, name)| (namespace.clone(), name.clone()))
                    .collect()
            };
            for (namespace, name) in vanished {
                events.extend(objects.remove(&namespace, &name).map(CoreEvent::Deleted));
            }
            for item in listed {
                events.extend(objects.put(item));
            }
        }
        tell(&handlers, &events);
    }

    pub(crate) fn subscribe(&self, handler: Handler) {
        let mut handlers = self.handlers.lock();
        let current: Vec<CoreEvent> = self.objects.read().all().cloned().map(CoreEvent::Added).collect();
        for event in &current {
            handler(event);
        }
        handlers.push(handler);
    }

    /// Adds an index over the objects held now and later. A second index of the same name is ignored.
    pub(crate) fn add_index(&self, name: &'static str, function: IndexFn) {
        let mut objects = self.objects.write();
        if objects.indexes.contains_key(name) {
            return;
        }
        let mut index = Index { function, values: HashMap::new() };
        for (namespace, names) in &objects.by_namespace {
            for (name, entry) in names {
                index.insert(namespace, name, &entry.object);
            }
        }
        objects.indexes.insert(name, index);
    }

    fn get(&self, namespace: &str, name: &str) -> Option<Object> {
        self.objects.read().by_namespace.get(namespace)?.get(name).map(|entry| entry.object.clone())
    }

    fn list(&self) -> Vec<Object> {
        let objects = self.objects.read();
        let mut all = Vec::with_capacity(objects.count);
        all.extend(objects.all().cloned());
        all
    }

    fn list_in(&self, namespace: &str) -> Vec<Object> {
        self.objects
            .read()
            .by_namespace
            .get(namespace)
            .map(|names| names.values().map(|entry| entry.object.clone()).collect())
            .unwrap_or_default()
    }

    fn by_index(&self, index: &str, value: &str) -> Vec<Object> {
        self.objects
            .read()
            .indexes
            .get(index)
            .and_then(|index| index.values.get(value))
            .map(|objects| objects.values().cloned().collect())
            .unwrap_or_default()
    }

    pub(crate) fn len(&self) -> usize {
        self.objects.read().count
    }
}

fn tell(handlers: &[Handler], events: &[CoreEvent]) {
    for event in events {
        for handler in handlers {
            handler(event);
        }
    }
}

fn typed<K: Any + Send + Sync>(object: Object) -> Arc<K> {
    object.downcast().expect("a store holds objects of its informer's kind only")
}

pub(crate) fn typed_ref<K: Any>(object: &Object) -> &K {
    object.downcast_ref().expect("a store holds objects of its informer's kind only")
}

pub(crate) fn typed_event<K: Any + Send + Sync>(event: &CoreEvent) -> Event<K> {
    match event {
        CoreEvent::Added(object) => Event::Added(typed(object.clone())),
        CoreEvent::Updated { old, new } => {
            Event::Updated { old: typed(old.clone()), new: typed(new.clone()) }
        }
        CoreEvent::Deleted(object) => Event::Deleted(typed(object.clone())),
    }
}

/// The objects an informer holds, as last seen. Cloning is cheap. Reads are a snapshot each: two reads may differ.
pub struct Store<K> {
    pub(crate) core: Arc<StoreCore>,
    kind: PhantomData<fn() -> K>,
}

impl<K> Clone for Store<K> {
    fn clone(&self) -> Self {
        Self { core: self.core.clone(), kind: PhantomData }
    }
}

impl<K> fmt::Debug for Store<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("len", &self.core.len()).finish_non_exhaustive()
    }
}

impl<K: Any + Send + Sync> Store<K> {
    pub(crate) fn over(core: Arc<StoreCore>) -> Self {
        Self { core, kind: PhantomData }
    }

    /// One object; the namespace of a cluster-scoped one is `""`.
    pub fn get(&self, namespace: &str, name: &str) -> Option<Arc<K>> {
        self.core.get(namespace, name).map(typed)
    }

    /// All objects, ordered by namespace and name.
    pub fn list(&self) -> Vec<Arc<K>> {
        self.core.list().into_iter().map(typed).collect()
    }

    /// The objects of one namespace, ordered by name.
    pub fn list_in(&self, namespace: &str) -> Vec<Arc<K>> {
        self.core.list_in(namespace).into_iter().map(typed).collect()
    }

    /// The objects for which the index function gave `value`, ordered by namespace and name. Empty when there is no
    /// index of that name.
    pub fn by_index(&self, index: &str, value: &str) -> Vec<Arc<K>> {
        self.core.by_index(index, value).into_iter().map(typed).collect()
    }

    /// Number of objects held.
    pub fn len(&self) -> usize {
        self.core.len()
    }

    /// Whether no object is held.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(name: &str, uid: &str, version: &str, value: &str) -> Decoded {
        Decoded {
            object: Arc::new(value.to_owned()),
            namespace: "ns".into(),
            name: name.into(),
            uid: uid.into(),
            resource_version: version.into(),
        }
    }

    fn recorded(core: &StoreCore) -> Arc<Mutex<Vec<String>>> {
        let log = Arc::new(Mutex::new(Vec::new()));
        let sink = log.clone();
        core.subscribe(Box::new(move |event| {
            let text = match typed_event::<String>(event) {
                Event::Added(new) => format!("+{new}"),
                Event::Updated { old, new } => format!("{old}>{new}"),
                Event::Deleted(old) => format!("-{old}"),
            };
            sink.lock().push(text);
        }));
        log
    }

    #[test]
    fn tells_each_change_once_and_in_order() {
        let core = StoreCore::default();
        let log = recorded(&core);
        core.replace(vec![item("a", "1", "1", "a1"), item("b", "2", "2", "b2")]);
        core.put(item("a", "1", "3", "a3"));
        core.put(item("a", "1", "3", "a3")); // a replayed event says nothing new
        core.delete(item("b", "2", "4", "b4"));
        core.delete(item("b", "2", "4", "b4"));
        core.put(item("a", "9", "5", "other"));
        core.replace(vec![item("c", "3", "6", "c6")]);
        assert_eq!(*log.lock(), ["+a1", "+b2", "a1>a3", "-b4", "-a3", "+other", "-other", "+c6"]);
        assert_eq!(core.len(), 1);
    }

    #[test]
    fn a_late_handler_is_told_what_is_there() {
        let core = StoreCore::default();
        core.replace(vec![item("a", "1", "1", "a1")]);
        let log = recorded(&core);
        core.put(item("b", "2", "2", "b2"));
        assert_eq!(*log.lock(), ["+a1", "+b2"]);
    }

    #[test]
    fn indexes_follow_changes_and_cover_what_was_there_before() {
        let core = Arc::new(StoreCore::default());
        core.put(item("a", "1", "1", "x"));
        core.add_index("value", Box::new(|object| vec![typed_ref::<String>(object).clone()]));
        core.put(item("b", "2", "2", "x"));
        let store = Store::<String>::over(core.clone());
        assert_eq!(store.by_index("value", "x").len(), 2);
        core.put(item("a", "1", "3", "y"));
        assert_eq!((store.by_index("value", "x").len(), store.by_index("value", "y").len()), (1, 1));
        core.delete(item("a", "1", "4", "y"));
        assert_eq!(store.by_index("value", "y").len(), 0);
        assert_eq!(store.by_index("none", "y").len(), 0);
        assert_eq!(store.get("ns", "b").as_deref().map(String::as_str), Some("x"));
        assert!(store.get("ns", "a").is_none());
        assert_eq!(store.list_in("ns").len(), 1);
    }
}
