//! Sets of completion indexes in their text form: `1,3-5,7`.

use std::collections::BTreeSet;

/// Reads an index list; what is malformed or not below `completions` is left out.
pub(super) fn parse(text: &str, completions: i32) -> BTreeSet<i32> {
    let mut indexes = BTreeSet::new();
    for part in text.split(',').filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        if let (Ok(first), Ok(last)) = (first.parse::<i32>(), last.parse::<i32>()) {
            indexes.extend(first.max(0)..=last.min(completions - 1));
        }
    }
    indexes
}

/// Writes an index list; runs of two are listed, longer ones are ranges.
pub(super) fn format(indexes: &BTreeSet<i32>) -> String {
    let mut parts: Vec<String> = Vec::new();
    let mut run: Option<(i32, i32)> = None;
    let mut close = |run: Option<(i32, i32)>| match run {
        None => {}
        Some((first, last)) if first == last => parts.push(first.to_string()),
        Some((first, last)) if first + 1 == last => parts.push(format!("{first},{last}")),
        Some((first, last)) => parts.push(format!("{first}-{last}")),
    };
    for index in indexes {
        run = match run {
            Some((first, last)) if last + 1 == *index => Some((first, *index)),
            done => {
                close(done);
                Some((*index, *index))
            }
        };
    }
    close(run);
    parts.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_survive_reading_and_writing() {
        for (text, indexes) in
            [("", vec![]), ("0", vec![0]), ("1,2", vec![1, 2]), ("0-2,5,7-9", vec![0, 1, 2, 5, 7, 8, 9])]
        {
            let set: BTreeSet<i32> = indexes.into_iter().collect();
            assert_eq!(parse(text, 10), set);
            assert_eq!(format(&set), text);
        }
        assert_eq!(parse("1,x,8-20,-3", 10), BTreeSet::from([1, 8, 9]));
    }
}
