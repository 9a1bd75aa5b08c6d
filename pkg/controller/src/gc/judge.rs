//! Whether an object must go, given what became of its owners. Pure.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

/// Finalizer of owners that wait for their dependents to be deleted.
pub(super) const FOREGROUND: &str = "foregroundDeletion";
/// Finalizer of owners whose dependents are to be kept.
pub(super) const ORPHAN: &str = "orphan";

/// What became of an owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum OwnerState {
    /// It is there.
    Solid,
    /// It is gone.
    Gone,
    /// It goes as soon as its dependents are gone.
    WaitsForDependents,
}

/// What to do with an object.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Keep,
    /// Take these owners (by uid) out of its references.
    DropReferences(Vec<String>),
    /// Delete with this propagation policy.
    Delete(&'static str),
}

/// Judges an object that is not being deleted.
pub(super) fn judge(meta: &ObjectMeta, owners: &[(String, OwnerState)], has_dependents: bool) -> Verdict {
    if owners.is_empty() {
        return Verdict::Keep;
    }
    let leaving: Vec<String> =
        owners.iter().filter(|(_, state)| *state != OwnerState::Solid).map(|(uid, _)| uid.clone()).collect();
    if leaving.len() < owners.len() {
        return if leaving.is_empty() { Verdict::Keep } else { Verdict::DropReferences(leaving) };
    }
    let waited_for = owners.iter().any(|(_, state)| *state == OwnerState::WaitsForDependents);
    let has = |finalizer: &str| meta.finalizers.iter().flatten().any(|held| held == finalizer);
    Verdict::Delete(if waited_for && has_dependents {
        // the owner waits for the whole tree below it
        "Foreground"
    } else if has(ORPHAN) {
        "Orphan"
    } else if has(FOREGROUND) {
        "Foreground"
    } else {
        "Background"
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verdicts() {
        use OwnerState::{Gone, Solid, WaitsForDependents};
        let plain = ObjectMeta::default();
        let orphaning = ObjectMeta { finalizers: Some(vec![ORPHAN.into()]), ..ObjectMeta::default() };
        let drop =
            |uids: &[&str]| Verdict::DropReferences(uids.iter().map(|uid| (*uid).to_owned()).collect());
        let cases: Vec<(&ObjectMeta, Vec<OwnerState>, bool, Verdict)> = vec![
            (&plain, vec![], false, Verdict::Keep),
            (&plain, vec![Solid], false, Verdict::Keep),
            (&plain, vec![Gone], false, Verdict::Delete("Background")),
            (&plain, vec![Solid, Gone, WaitsForDependents], false, drop(&["1", "2"])),
            (&plain, vec![WaitsForDependents], true, Verdict::Delete("Foreground")),
            (&plain, vec![WaitsForDependents, Gone], false, Verdict::Delete("Background")),
            (&orphaning, vec![Gone], true, Verdict::Delete("Orphan")),
        ];
        for (meta, states, has_dependents, expected) in cases {
            let owners: Vec<_> =
                states.into_iter().enumerate().map(|(n, state)| (n.to_string(), state)).collect();
            assert_eq!(judge(meta, &owners, has_dependents), expected);
        }
    }
}
