//! The short texts that are kept of an object beside its JSON: labels and selectable fields.

/// Texts, one after the other in one place. An object has about twenty: each by itself would be an allocation to make and
/// to free.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Texts {
    all: Box<str>,
    ends: Box<[u32]>,
}

impl Texts {
    /// The text at this place.
    pub fn get(&self, index: usize) -> Option<&str> {
        let end = *self.ends.get(index)? as usize;
        let start = index.checked_sub(1).map_or(0, |before| self.ends[before] as usize);
        self.all.get(start..end)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// There are none.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// All of them, in order.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        (0..self.len()).filter_map(|index| self.get(index))
    }
}

impl<T: AsRef<str>> FromIterator<T> for Texts {
    fn from_iter<I: IntoIterator<Item = T>>(texts: I) -> Self {
        let (mut all, mut ends) = (String::new(), Vec::new());
        for text in texts {
            all.push_str(text.as_ref());
            ends.push(all.len() as u32);
        }
        Self { all: all.into_boxed_str(), ends: ends.into_boxed_slice() }
    }
}

/// An object's labels, sorted by key.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Labels(Texts);

impl Labels {
    /// Labels from pairs in any order; of equal keys the last one counts.
    pub fn new<K: AsRef<str>, V: AsRef<str>>(pairs: impl IntoIterator<Item = (K, V)>) -> Self {
        let mut pairs: Vec<(K, V)> = pairs.into_iter().collect();
        // keeps the order of equal keys
        pairs.sort_by(|(a, _), (b, _)| a.as_ref().cmp(b.as_ref()));
        let last_of_its_key =
            |i: &usize| pairs.get(i + 1).is_none_or(|next| next.0.as_ref() != pairs[*i].0.as_ref());
        let kept = (0..pairs.len()).filter(last_of_its_key);
        Self(kept.flat_map(|i| [pairs[i].0.as_ref(), pairs[i].1.as_ref()]).collect())
    }

    fn len(&self) -> usize {
        self.0.len() / 2
    }

    fn key(&self, index: usize) -> &str {
        self.0.get(2 * index).unwrap_or_default()
    }

    fn value(&self, index: usize) -> &str {
        self.0.get(2 * index + 1).unwrap_or_default()
    }

    /// The value of a label.
    pub fn get(&self, key: &str) -> Option<&str> {
        let (mut from, mut to) = (0, self.len());
        while from < to {
            let middle = usize::midpoint(from, to);
            match self.key(middle).cmp(key) {
                std::cmp::Ordering::Less => from = middle + 1,
                std::cmp::Ordering::Equal => return Some(self.value(middle)),
                std::cmp::Ordering::Greater => to = middle,
            }
        }
        None
    }

    /// Keys and values, sorted by key.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        (0..self.len()).map(|index| (self.key(index), self.value(index)))
    }

    /// There are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_found_by_their_places() {
        let cases: [&[&str]; 5] = [&[], &[""], &["a"], &["", "ä", ""], &["one", "", "three"]];
        for texts in cases {
            let kept: Texts = texts.iter().collect();
            assert_eq!(kept.iter().collect::<Vec<_>>(), texts);
            assert_eq!((kept.len(), kept.is_empty()), (texts.len(), texts.is_empty()));
            assert_eq!(kept.get(texts.len()), None);
        }
    }

    #[test]
    fn labels_are_found_by_their_keys() {
        let labels = Labels::new([("c", "3"), ("a", "1"), ("b", "old"), ("", "0"), ("b", "2")]);
        assert_eq!(labels.iter().collect::<Vec<_>>(), [("", "0"), ("a", "1"), ("b", "2"), ("c", "3")]);
        for (key, value) in
            [("", Some("0")), ("a", Some("1")), ("b", Some("2")), ("c", Some("3")), ("d", None)]
        {
            assert_eq!(labels.get(key), value, "{key}");
        }
        assert!(Labels::default().is_empty() && Labels::default().get("").is_none());
        assert_eq!(labels, Labels::new(labels.iter()));
    }
}
