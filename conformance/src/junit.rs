//! Reading the JUnit files of a suite. Both generations write one `testcase` a test, with `skipped`, `failure` or `error`
//! below it; they differ in how a name is decorated and where the message of a failure is.

use std::path::Path;
use std::sync::LazyLock;

use anyhow::{Context as _, ensure};
use regex::Regex;
use roxmltree::{Document, Node, ParsingOptions};

/// Largest file that is read: the output of every failed test is in it.
const MAX_BYTES: u64 = 512 << 20;
/// Characters of a failure's message that are kept; all of it is in the test's log.
const MESSAGE: usize = 600;

/// How a test ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    Pass,
    Fail,
    Skip,
}

/// One test of a JUnit file.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Case {
    pub(crate) name: String,
    pub(crate) verdict: Verdict,
    pub(crate) seconds: f64,
    /// The failure's message in one line; empty unless failed.
    pub(crate) message: String,
    /// Everything that the file has about the test, for its log; empty unless failed.
    pub(crate) output: String,
}

/// The name without what generation 2 puts around it: `[It] ` before, and the labels after, which the name itself has
/// as tags.
fn undecorated(name: &str) -> &str {
    let Some(name) = name.strip_prefix("[It] ") else { return name };
    let Some((before, last)) = name.rsplit_once(" [") else { return name };
    let Some(labels) = last.strip_suffix(']') else { return name };
    let are_labels = labels.split(", ").all(|label| before.contains(&format!("[{label}]")));
    if are_labels { before } else { name }
}

/// Whether a case is not a test but what a suite does before or after all tests; generation 2 reports these too.
pub(crate) fn is_set_up(name: &str) -> bool {
    const NODES: [&str; 6] = [
        "BeforeSuite",
        "AfterSuite",
        "SynchronizedBeforeSuite",
        "SynchronizedAfterSuite",
        "ReportBeforeSuite",
        "ReportAfterSuite",
    ];
    let node = name.strip_prefix('[').and_then(|rest| rest.split_once(']')).map_or(name, |(node, _)| node);
    NODES.contains(&node) || node.starts_with("DeferCleanup")
}

/// Whether a line is a place in the source and nothing else.
fn is_location(line: &str) -> bool {
    line.trim().rsplit_once(".go:").is_some_and(|(path, number)| {
        !path.contains(char::is_whitespace) && number.chars().all(|c| c.is_ascii_digit())
    })
}

/// What differs from run to run in a message: the time before it, and addresses of values.
static VOLATILE: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r"^[A-Z][a-z]{2} +[0-9]+ [0-9:.]+: | \| 0x[0-9a-f]+").expect("a constant expression")
});

/// A message in one line, without places in the source and what differs from run to run, cut to [`MESSAGE`] characters.
pub(crate) fn one_line(text: &str) -> String {
    let words: Vec<&str> =
        text.lines().filter(|line| !is_location(line)).flat_map(str::split_whitespace).collect();
    let line = words.join(" ");
    let line = VOLATILE.replace_all(&line, "");
    match line.char_indices().nth(MESSAGE) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line.into_owned(),
    }
}

fn case(node: Node<'_, '_>) -> Option<Case> {
    let name = undecorated(node.attribute("name")?).to_owned();
    let seconds = node.attribute("time").and_then(|time| time.parse().ok()).unwrap_or_default();
    // `Node` is tied to its document by both parameters.
    let find = |names: &[&str]| {
        node.children()
            .find(|child| names.contains(&child.tag_name().name()))
            .map(|child| (child.attribute("message").unwrap_or_default(), child.text().unwrap_or_default()))
    };
    let mut case =
        Case { name, verdict: Verdict::Pass, seconds, message: String::new(), output: String::new() };
    if let Some((attribute, text)) = find(&["failure", "error"]) {
        case.verdict = Verdict::Fail;
        case.message = one_line(if attribute.trim().is_empty() { text } else { attribute });
        case.output = format!("{attribute}\n{text}\n");
        for stream in ["system-out", "system-err"] {
            if let Some((_, text)) = find(&[stream]) {
                case.output.push_str(text);
                case.output.push('\n');
            }
        }
    } else if find(&["skipped"]).is_some() {
        case.verdict = Verdict::Skip;
    }
    Some(case)
}

/// The tests in a JUnit document.
pub(crate) fn parse(text: &str) -> anyhow::Result<Vec<Case>> {
    let options = ParsingOptions { nodes_limit: 1 << 20, ..ParsingOptions::default() };
    let document = Document::parse_with_options(text, options)?;
    Ok(document.descendants().filter(|node| node.has_tag_name("testcase")).filter_map(case).collect())
}

/// The tests in all JUnit files of a directory; none when there is no file.
pub(crate) fn read_directory(directory: &Path) -> anyhow::Result<Vec<Case>> {
    let mut cases = Vec::new();
    for entry in std::fs::read_dir(directory).with_context(|| directory.display().to_string())? {
        let entry = entry?;
        let path = entry.path();
        let is_junit = entry.file_name().to_string_lossy().starts_with("junit");
        if !is_junit || path.extension().is_none_or(|extension| extension != "xml") {
            continue;
        }
        ensure!(entry.metadata()?.len() <= MAX_BYTES, "{} is too large", path.display());
        let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        cases.extend(parse(&text).with_context(|| path.display().to_string())?);
    }
    Ok(cases)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: &str = r#"<?xml version="1.0" encoding="UTF-8"?>
<testsuite name="Kubernetes e2e suite" tests="2" failures="1" errors="0" time="3.5">
  <testcase name="[sig-x] A should pass [Conformance]" classname="Kubernetes e2e suite" time="1.25"></testcase>
  <testcase name="[sig-x] B should fail" classname="Kubernetes e2e suite" time="2">
    <failure type="Failure">/src/test/b.go:10&#xA;Unexpected error:&#xA;    &lt;*errors.errorString&gt;: no&#xA;occurred&#xA;/src/test/b.go:12</failure>
    <system-out>STEP: one</system-out>
  </testcase>
  <testcase name="[sig-x] C was left out" classname="Kubernetes e2e suite" time="0"><skipped></skipped></testcase>
</testsuite>"#;

    const NEW: &str = r#"<?xml version="1.0" encoding="UTF-8"?>
<testsuites tests="2"><testsuite name="Kubernetes e2e suite"><properties><property name="a" value="b"/></properties>
  <testcase name="[It] [sig-x] A should pass [Conformance] [sig-x, Conformance]" status="passed" time="0.5"/>
  <testcase name="[It] [sig-x] B should [fail]" status="failed" time="2">
    <failure message="it did not" type="failed">/src/b.go:7 stack</failure><system-err>STEP: two</system-err>
  </testcase>
  <testcase name="[SynchronizedBeforeSuite]" status="panicked" time="2"><error message="boom" type="panicked"/></testcase>
</testsuite></testsuites>"#;

    #[test]
    fn generation_1() {
        let cases = parse(OLD).expect("a report");
        let verdicts: Vec<_> = cases.iter().map(|case| case.verdict).collect();
        assert_eq!(verdicts, [Verdict::Pass, Verdict::Fail, Verdict::Skip]);
        assert_eq!(cases[0].name, "[sig-x] A should pass [Conformance]");
        assert!((cases[0].seconds - 1.25).abs() < f64::EPSILON);
        assert_eq!(cases[1].message, "Unexpected error: <*errors.errorString>: no occurred");
        assert!(cases[1].output.contains("b.go:12") && cases[1].output.contains("STEP: one"));
    }

    #[test]
    fn generation_2() {
        let cases = parse(NEW).expect("a report");
        let names: Vec<_> = cases.iter().map(|case| case.name.as_str()).collect();
        assert_eq!(
            names,
            ["[sig-x] A should pass [Conformance]", "[sig-x] B should [fail]", "[SynchronizedBeforeSuite]"]
        );
        assert_eq!((cases[1].verdict, cases[1].message.as_str()), (Verdict::Fail, "it did not"));
        assert!(cases[1].output.contains("stack") && cases[1].output.contains("STEP: two"));
        assert_eq!((cases[2].verdict, cases[2].message.as_str()), (Verdict::Fail, "boom"));
    }

    #[test]
    fn set_up_is_no_test() {
        for (name, expected) in [
            ("BeforeSuite", true),
            ("[SynchronizedBeforeSuite]", true),
            ("[ReportAfterSuite] Autogenerated ReportAfterSuite", true),
            ("[DeferCleanup (Suite)]", true),
            ("[sig-x] BeforeSuite", false),
        ] {
            assert_eq!(is_set_up(name), expected, "{name}");
        }
    }

    #[test]
    fn bad_files_are_errors_and_messages_are_short() {
        assert!(parse("<testsuite><testcase name=\"cut").is_err());
        let stamped = "Nov 22 21:32:09.732: no\n<*errors.errorString | 0xc0001ec190>: no";
        assert_eq!(one_line(stamped), "no <*errors.errorString>: no");
        let long = one_line(&"word ".repeat(1000));
        assert_eq!(long.chars().count(), MESSAGE + 1);
    }
}
