//! Sets of paths as tries of sorted vectors.

use std::cmp::Ordering;

use super::PathElement;

/// A set of paths. The empty path (the whole object) is never a member.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Set {
    /// Sorted by element; none is empty.
    entries: Vec<Entry>,
}

/// What a set holds at and below one element.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The element.
    pub element: PathElement,
    /// The path that ends here is a member.
    pub member: bool,
    /// Members below.
    pub children: Set,
}

impl Entry {
    fn is_empty(&self) -> bool {
        !self.member && self.children.is_empty()
    }
}

impl Set {
    /// The empty set.
    pub const fn new() -> Self {
        Self { entries: Vec::new() }
    }

    /// True without members.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Number of members.
    pub fn len(&self) -> usize {
        self.entries.iter().map(|entry| usize::from(entry.member) + entry.children.len()).sum()
    }

    /// The entries in order.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// What is at and below an element.
    pub fn get(&self, element: &PathElement) -> Option<&Entry> {
        let at = self.entries.binary_search_by(|entry| entry.element.cmp(element)).ok()?;
        Some(&self.entries[at])
    }

    /// What is at and below a field.
    pub fn get_field(&self, name: &str) -> Option<&Entry> {
        let at = self
            .entries
            .binary_search_by(|entry| match &entry.element {
                PathElement::Field(field) => (**field).cmp(name),
                _ => Ordering::Greater,
            })
            .ok()?;
        Some(&self.entries[at])
    }

    /// True for a member.
    pub fn has(&self, path: &[PathElement]) -> bool {
        match path {
            [] => false,
            [last] => self.get(last).is_some_and(|entry| entry.member),
            [first, rest @ ..] => self.get(first).is_some_and(|entry| entry.children.has(rest)),
        }
    }

    /// Makes a path a member; not those above it.
    pub fn insert(&mut self, path: &[PathElement]) {
        let [first, rest @ ..] = path else { return };
        let at = match self.entries.binary_search_by(|entry| entry.element.cmp(first)) {
            Ok(at) => at,
            Err(at) => {
                self.entries
                    .insert(at, Entry { element: first.clone(), member: false, children: Self::new() });
                at
            }
        };
        if rest.is_empty() {
            self.entries[at].member = true;
        } else {
            self.entries[at].children.insert(rest);
        }
    }

    /// Adds an entry, which walkers that go in order do without searching. An empty one is left out, one that is there
    /// already is united with.
    pub fn push(&mut self, element: PathElement, member: bool, children: Self) {
        let entry = Entry { element, member, children };
        if entry.is_empty() {
            return;
        }
        match self.entries.last().map(|last| last.element.cmp(&entry.element)) {
            None | Some(Ordering::Less) => self.entries.push(entry),
            Some(_) => match self.entries.binary_search_by(|e| e.element.cmp(&entry.element)) {
                Ok(at) => {
                    let known = &mut self.entries[at];
                    known.member |= entry.member;
                    known.children = std::mem::take(&mut known.children).union(entry.children);
                }
                Err(at) => self.entries.insert(at, entry),
            },
        }
    }

    /// Members of either.
    #[must_use]
    pub fn union(self, other: Self) -> Self {
        if self.is_empty() {
            return other;
        }
        if other.is_empty() {
            return self;
        }
        let mut entries = Vec::with_capacity(self.entries.len().max(other.entries.len()));
        let (mut a, mut b) = (self.entries.into_iter().peekable(), other.entries.into_iter().peekable());
        loop {
            let order = match (a.peek(), b.peek()) {
                (None, None) => break,
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some(a), Some(b)) => a.element.cmp(&b.element),
            };
            match order {
                Ordering::Less => entries.extend(a.next()),
                Ordering::Greater => entries.extend(b.next()),
                Ordering::Equal => {
                    if let (Some(a), Some(b)) = (a.next(), b.next()) {
                        entries.push(Entry {
                            element: a.element,
                            member: a.member || b.member,
                            children: a.children.union(b.children),
                        });
                    }
                }
            }
        }
        Self { entries }
    }

    /// Members of both.
    #[must_use]
    pub fn intersection(&self, other: &Self) -> Self {
        let mut entries = Vec::new();
        let mut others = other.entries.iter().peekable();
        for a in &self.entries {
            while others.peek().is_some_and(|b| b.element < a.element) {
                others.next();
            }
            let Some(b) = others.peek().filter(|b| b.element == a.element) else { continue };
            let entry = Entry {
                element: a.element.clone(),
                member: a.member && b.member,
                children: a.children.intersection(&b.children),
            };
            if !entry.is_empty() {
                entries.push(entry);
            }
        }
        Self { entries }
    }

    /// Members of this set that are not members of `other`. What is below a member of `other` stays.
    #[must_use]
    pub fn difference(mut self, other: &Self) -> Self {
        self.subtract(other, false);
        self
    }

    /// Members of this set that are neither members of `other` nor below one.
    #[must_use]
    pub fn recursive_difference(mut self, other: &Self) -> Self {
        self.subtract(other, true);
        self
    }

    fn subtract(&mut self, other: &Self, recursive: bool) {
        if other.is_empty() {
            return;
        }
        let mut others = other.entries.iter().peekable();
        self.entries.retain_mut(|a| {
            while others.peek().is_some_and(|b| b.element < a.element) {
                others.next();
            }
            let Some(b) = others.peek().filter(|b| b.element == a.element) else { return true };
            if b.member && recursive {
                return false;
            }
            a.member &= !b.member;
            a.children.subtract(&b.children, recursive);
            !a.is_empty()
        });
    }

    /// True when every member of this set is one of `other`.
    pub fn is_subset(&self, other: &Self) -> bool {
        self.entries.iter().all(|a| match other.get(&a.element) {
            Some(b) => (b.member || !a.member) && a.children.is_subset(&b.children),
            None => false,
        })
    }

    /// Rewrites membership and children of the entries in place; those left empty are dropped.
    pub fn modify(&mut self, mut change: impl FnMut(&PathElement, &mut bool, &mut Self)) {
        self.entries.retain_mut(|entry| {
            change(&entry.element, &mut entry.member, &mut entry.children);
            !entry.is_empty()
        });
    }

    /// Makes members of the entries at a depth that have members below them, and drops those.
    #[must_use]
    pub fn limited(mut self, depth: usize) -> Self {
        self.cut(depth);
        self
    }

    fn cut(&mut self, depth: usize) {
        for entry in &mut self.entries {
            if depth > 1 {
                entry.children.cut(depth - 1);
            } else if !entry.children.is_empty() {
                entry.member = true;
                entry.children = Self::new();
            }
        }
    }

    /// Calls `visit` with every member: those of one level first, then those below them, as upstream lists them.
    pub fn for_each(&self, visit: &mut dyn FnMut(&[PathElement])) {
        self.visit(&mut Vec::new(), visit);
    }

    fn visit(&self, path: &mut Vec<PathElement>, visit: &mut dyn FnMut(&[PathElement])) {
        for entry in self.entries.iter().filter(|entry| entry.member) {
            path.push(entry.element.clone());
            visit(path);
            path.pop();
        }
        for entry in self.entries.iter().filter(|entry| !entry.children.is_empty()) {
            path.push(entry.element.clone());
            entry.children.visit(path, visit);
            path.pop();
        }
    }
}
