//! What was found of each operation.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::sync::{Mutex, PoisonError};

use crate::facts::{Operation, Resource};

/// The finding on one operation: nothing wrong, or what.
type Finding = Result<(), String>;

/// Findings by method and path.
#[derive(Debug, Default)]
pub(crate) struct Report {
    findings: Mutex<BTreeMap<(String, String), Finding>>,
}

/// How the walk went.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Totals {
    /// Operations that did all that was asked of them.
    pub(crate) passed: usize,
    /// Operations that did not, or that were not reached.
    pub(crate) failed: usize,
}

impl std::ops::Add for Totals {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self { passed: self.passed + other.passed, failed: self.failed + other.failed }
    }
}

impl Report {
    /// Notes a finding; of several on one operation the first failure stays.
    pub(crate) fn note(&self, method: &str, path: &str, finding: anyhow::Result<()>) {
        let finding = finding.map_err(|e| format!("{e:#}"));
        let mut findings = self.findings.lock().unwrap_or_else(PoisonError::into_inner);
        let known = findings.entry((method.to_owned(), path.to_owned())).or_insert(Ok(()));
        if known.is_ok() {
            *known = finding;
        }
    }

    /// Notes every operation on a resource that was not walked at all.
    pub(crate) fn expect(&self, resource: &Resource) {
        for (method, path) in resource.operations() {
            let known = {
                let findings = self.findings.lock().unwrap_or_else(PoisonError::into_inner);
                findings.contains_key(&(method.to_owned(), path.clone()))
            };
            if !known {
                self.note(method, &path, Err(anyhow::anyhow!("served, but not walked")));
            }
        }
    }

    /// Prints a line for every operation of the list that failed, then those outside of it.
    pub(crate) fn print(&self, operations: &[Operation], out: &mut impl Write) -> io::Result<Totals> {
        let mut findings = self.findings.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut totals = Totals { passed: 0, failed: 0 };
        for operation in operations {
            let key = (operation.method.clone(), operation.path.clone());
            match findings.remove(&key).unwrap_or_else(|| Err("not reached".to_owned())) {
                Ok(()) => totals.passed += 1,
                Err(why) => {
                    totals.failed += 1;
                    writeln!(out, "FAIL {} ({} {}): {why}", operation.id, operation.method, operation.path)?;
                }
            }
        }
        let listed = totals.passed;
        for ((method, path), finding) in findings {
            match finding {
                Ok(()) => totals.passed += 1,
                Err(why) => {
                    totals.failed += 1;
                    writeln!(out, "FAIL {method} {path}: {why}")?;
                }
            }
        }
        writeln!(out, "{listed} of {} operations of the conformance list passed", operations.len())?;
        Ok(totals)
    }
}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;

    use super::*;

    #[test]
    fn what_is_not_reached_fails() {
        let operation = |method: &str, id: &str| Operation {
            method: method.to_owned(),
            path: "/x".to_owned(),
            id: id.to_owned(),
        };
        let report = Report::default();
        report.note("GET", "/x", Ok(()));
        report.note("PUT", "/x", Ok(()));
        report.note("PUT", "/x", Err(anyhow!("first")));
        report.note("PUT", "/x", Err(anyhow!("second")));
        report.note("GET", "/extra", Ok(()));
        let mut out = Vec::new();
        let list = [operation("GET", "read"), operation("PUT", "replace"), operation("POST", "create")];
        let totals = report.print(&list, &mut out).expect("print");
        assert_eq!(totals, Totals { passed: 2, failed: 2 });
        let text = String::from_utf8(out).expect("text");
        assert_eq!(
            text,
            "FAIL replace (PUT /x): first\nFAIL create (POST /x): not reached\n1 of 3 operations of the conformance \
             list passed\n"
        );
    }
}
