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

/// What is known of an object's dependents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dependents {
    /// There are none.
    None,
    /// There are some.
    Some,
    /// One of them is in foreground deletion itself: together with owners that are, this may be a circle.
    Leaving,
}

/// What to do with an object.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Keep,
    /// Let no owner wait for it any more, then judge again: in a circle all would wait for each other.
    Unblock,
    /// Take these owners (by uid) out of its references.
    DropReferences(Vec<String>),
    /// Delete with this propagation policy.
    Delete(&'static str),
}

/// Judges an object that is not being deleted.
pub(super) fn judge(meta: &ObjectMeta, owners: &[(String, OwnerState)], dependents: Dependents) -> Verdict {
    if owners.is_empty() {
        return Verdict::Keep;
    }
    let leaving: Vec<String> =
        owners.iter().filter(|(_, state)| *state != OwnerState::Solid).map(|(uid, _)| uid.clone()).collect();
    if leaving.len() < owners.len() {
        return if leaving.is_empty() { Verdict::Keep } else { Verdict::DropReferences(leaving) };
    }
    let waited_for = owners.iter().any(|(_, state)| *state == OwnerState::WaitsForDependents);
    let blocks =
        || meta.owner_references.iter().flatten().any(|owner| owner.block_owner_deletion == Some(true));
    if waited_for && dependents == Dependents::Leaving && blocks() {
        return Verdict::Unblock;
    }
    let has = |finalizer: &str| meta.finalizers.iter().flatten().any(|held| held == finalizer);
    Verdict::Delete(if waited_for && dependents != Dependents::None {
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
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;

    use super::*;

    #[test]
    fn verdicts() {
        use OwnerState::{Gone, Solid, WaitsForDependents};
        let plain = ObjectMeta::default();
        let owned = |block| ObjectMeta {
            owner_references: Some(vec![OwnerReference {
                block_owner_deletion: Some(block),
                ..OwnerReference::default()
            }]),
            ..ObjectMeta::default()
        };
        let (blocking, unblocked) = (owned(true), owned(false));
        let orphaning = ObjectMeta { finalizers: Some(vec![ORPHAN.into()]), ..ObjectMeta::default() };
        let drop =
            |uids: &[&str]| Verdict::DropReferences(uids.iter().map(|uid| (*uid).to_owned()).collect());
        let cases: Vec<(&ObjectMeta, Vec<OwnerState>, Dependents, Verdict)> = vec![
            (&plain, vec![], Dependents::None, Verdict::Keep),
            (&plain, vec![Solid], Dependents::None, Verdict::Keep),
            (&plain, vec![Gone], Dependents::None, Verdict::Delete("Background")),
            (&plain, vec![Solid, Gone, WaitsForDependents], Dependents::None, drop(&["1", "2"])),
            (&plain, vec![WaitsForDependents], Dependents::Some, Verdict::Delete("Foreground")),
            (&plain, vec![WaitsForDependents, Gone], Dependents::None, Verdict::Delete("Background")),
            (&blocking, vec![WaitsForDependents], Dependents::Some, Verdict::Delete("Foreground")),
            (&blocking, vec![WaitsForDependents], Dependents::Leaving, Verdict::Unblock),
            (&unblocked, vec![WaitsForDependents], Dependents::Leaving, Verdict::Delete("Foreground")),
            (&blocking, vec![Gone], Dependents::Leaving, Verdict::Delete("Background")),
            (&orphaning, vec![Gone], Dependents::Some, Verdict::Delete("Orphan")),
        ];
        for (meta, states, dependents, expected) in cases {
            let owners: Vec<_> =
                states.into_iter().enumerate().map(|(n, state)| (n.to_string(), state)).collect();
            assert_eq!(judge(meta, &owners, dependents), expected);
        }
    }
}
