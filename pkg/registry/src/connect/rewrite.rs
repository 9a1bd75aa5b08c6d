//! Links in proxied pages are made to lead through the proxy again.
//! Source: `k8s.io/apimachinery/pkg/util/proxy/transport.go`; the attributes are those of HTML that hold URLs.

use super::Location;

/// Attributes that hold URLs, by element.
const URL_ATTRIBUTES: [(&str, &[&str]); 29] = [
    ("a", &["href"]),
    ("applet", &["codebase"]),
    ("area", &["href"]),
    ("audio", &["src"]),
    ("base", &["href"]),
    ("blockquote", &["cite"]),
    ("body", &["background"]),
    ("button", &["formaction"]),
    ("command", &["icon"]),
    ("del", &["cite"]),
    ("embed", &["src"]),
    ("form", &["action"]),
    ("frame", &["longdesc", "src"]),
    ("head", &["profile"]),
    ("html", &["manifest"]),
    ("iframe", &["longdesc", "src"]),
    ("img", &["longdesc", "src", "usemap"]),
    ("input", &["src", "usemap", "formaction"]),
    ("ins", &["cite"]),
    ("link", &["href"]),
    ("object", &["classid", "codebase", "data", "usemap"]),
    ("q", &["cite"]),
    ("script", &["src"]),
    ("source", &["src"]),
    ("video", &["src", "poster"]),
    ("track", &["src"]),
    ("use", &["href"]),
    ("image", &["href"]),
    ("menuitem", &["icon"]),
];

/// Whether a content type is HTML.
pub(super) fn is_html(content_type: &str) -> bool {
    content_type.split(';').next().is_some_and(|t| t.trim().eq_ignore_ascii_case("text/html"))
}

/// Puts the proxy's path in front of the paths of a proxied server.
#[derive(Debug, Clone)]
pub(super) struct Rewriter {
    /// Path that leads to the root of the proxied server, without a slash at its end.
    pub(super) prefix: String,
    /// Host the client asked, which links may name.
    pub(super) host: String,
}

impl Rewriter {
    /// A URL as the client should see it. Relative ones and those of other servers stay.
    pub(super) fn url(&self, url: &str, location: &Location) -> String {
        let path = match url.split_once("://") {
            Some((scheme, rest))
                if !scheme.is_empty() && scheme.bytes().all(|b| b.is_ascii_alphanumeric()) =>
            {
                let (host, path) = rest.find('/').map_or((rest, "/"), |at| rest.split_at(at));
                if host != location.authority() && host != location.host && host != self.host {
                    return url.to_owned();
                }
                path
            }
            _ if url.starts_with("//") || !url.starts_with('/') => return url.to_owned(),
            _ => url,
        };
        if path.strip_prefix(&self.prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/')) {
            return path.to_owned();
        }
        format!("{}{path}", self.prefix)
    }

    /// A page with its links rewritten; everything else stays as it is, byte for byte.
    pub(super) fn html(&self, page: &[u8], location: &Location) -> Vec<u8> {
        let mut out = Vec::with_capacity(page.len() + 256);
        let mut rest = page;
        while let Some(start) = rest.iter().position(|b| *b == b'<') {
            let (before, tag) = rest.split_at(start);
            out.extend_from_slice(before);
            rest = if tag.starts_with(b"<!--") {
                copy_until(&mut out, tag, b"-->")
            } else if tag.get(1).is_some_and(u8::is_ascii_alphabetic) {
                self.tag(&mut out, tag, location)
            } else {
                out.push(b'<');
                &tag[1..]
            };
        }
        out.extend_from_slice(rest);
        out
    }

    /// Copies one tag with its attributes and gives what follows it.
    fn tag<'a>(&self, out: &mut Vec<u8>, text: &'a [u8], location: &Location) -> &'a [u8] {
        let end = 1 + text[1..].iter().take_while(|b| b.is_ascii_alphanumeric()).count();
        let name = String::from_utf8_lossy(&text[1..end]).to_ascii_lowercase();
        let known =
            URL_ATTRIBUTES.iter().find(|(element, _)| *element == name).map_or(&[][..], |(_, list)| list);
        out.extend_from_slice(&text[..end]);
        let mut rest = &text[end..];
        loop {
            match rest.first() {
                None => return rest,
                Some(b'>') => {
                    out.push(b'>');
                    rest = &rest[1..];
                    break;
                }
                Some(b) if b.is_ascii_whitespace() || *b == b'/' => {
                    out.push(*b);
                    rest = &rest[1..];
                }
                Some(_) => rest = self.attribute(out, rest, known, location),
            }
        }
        match name.as_str() {
            // what is in these is text, not tags
            "script" | "style" => copy_until(out, rest, format!("</{name}").as_bytes()),
            _ => rest,
        }
    }

    /// Copies one attribute and gives what follows it.
    fn attribute<'a>(
        &self,
        out: &mut Vec<u8>,
        text: &'a [u8],
        known: &[&str],
        location: &Location,
    ) -> &'a [u8] {
        let name_end = text
            .iter()
            .skip(1)
            .position(|b| b.is_ascii_whitespace() || matches!(b, b'=' | b'>' | b'/'))
            .map_or(text.len(), |at| at + 1);
        let name = String::from_utf8_lossy(&text[..name_end]).to_ascii_lowercase();
        let blanks = text[name_end..].iter().take_while(|b| b.is_ascii_whitespace()).count();
        if text.get(name_end + blanks) != Some(&b'=') {
            out.extend_from_slice(&text[..name_end]);
            return &text[name_end..];
        }
        let after = name_end + blanks + 1;
        let start = after + text[after..].iter().take_while(|b| b.is_ascii_whitespace()).count();
        let (start, end, next) = match text.get(start) {
            Some(quote @ (b'"' | b'\'')) => {
                let from = start + 1;
                let end = text[from..].iter().position(|b| b == quote).map_or(text.len(), |at| from + at);
                (from, end, end)
            }
            _ => {
                let end = text[start..]
                    .iter()
                    .position(|b| b.is_ascii_whitespace() || *b == b'>')
                    .map_or(text.len(), |at| start + at);
                (start, end, end)
            }
        };
        out.extend_from_slice(&text[..start]);
        match std::str::from_utf8(&text[start..end]) {
            Ok(value) if known.contains(&name.as_str()) => {
                out.extend_from_slice(self.url(value, location).as_bytes());
            }
            _ => out.extend_from_slice(&text[start..end]),
        }
        let next = if matches!(text.get(next), Some(b'"' | b'\'')) {
            out.push(text[next]);
            next + 1
        } else {
            next
        };
        &text[next..]
    }
}

/// Copies up to and with an end mark (compared without case) and gives what follows.
fn copy_until<'a>(out: &mut Vec<u8>, text: &'a [u8], end: &[u8]) -> &'a [u8] {
    let at = text
        .windows(end.len())
        .position(|w| w.eq_ignore_ascii_case(end))
        .map_or(text.len(), |at| at + end.len());
    out.extend_from_slice(&text[..at]);
    &text[at..]
}

#[cfg(test)]
mod tests {
    use super::super::Trust;
    use super::*;

    #[test]
    fn links_lead_through_the_proxy() {
        let rewriter =
            Rewriter { prefix: "/api/v1/namespaces/n/pods/p/proxy".into(), host: "api:6443".into() };
        let location = Location {
            secure: false,
            host: "10.0.0.1".into(),
            port: 8080,
            path: String::new(),
            query: String::new(),
            trust: Trust::Anything,
        };
        let p = "/api/v1/namespaces/n/pods/p/proxy";
        let cases = [
            (r#"<a href="/rewriteme">test</a>"#.to_owned(), format!(r#"<a href="{p}/rewriteme">test</a>"#)),
            (
                "<pre><a href='/x?y=1#z' class=b>t</a></pre>".into(),
                format!("<pre><a href='{p}/x?y=1#z' class=b>t</a></pre>"),
            ),
            ("<A HREF=/x>t".into(), format!("<A HREF={p}/x>t")),
            (r#"<a href="relative">"#.into(), r#"<a href="relative">"#.into()),
            (r#"<a href="http://other/x">"#.into(), r#"<a href="http://other/x">"#.into()),
            (r#"<a href="http://10.0.0.1:8080/x">"#.into(), format!(r#"<a href="{p}/x">"#)),
            (r#"<a href="//other/x">"#.into(), r#"<a href="//other/x">"#.into()),
            (format!(r#"<a href="{p}/x">"#), format!(r#"<a href="{p}/x">"#)),
            (r#"<a title="/x">"#.into(), r#"<a title="/x">"#.into()),
            (
                r#"<script src="/s.js">var a = '<a href="/x">';</script>"#.into(),
                format!(r#"<script src="{p}/s.js">var a = '<a href="/x">';</script>"#),
            ),
            (
                r#"<!-- <a href="/x"> --><img src = "/i"/>"#.into(),
                format!(r#"<!-- <a href="/x"> --><img src = "{p}/i"/>"#),
            ),
            ("a < b <".into(), "a < b <".into()),
            ("<a href=".into(), "<a href=".into()),
            ("<a href=\"/x".into(), format!("<a href=\"{p}/x")),
        ];
        for (page, expected) in cases {
            let got = rewriter.html(page.as_bytes(), &location);
            assert_eq!(String::from_utf8(got).expect("text"), expected);
        }
        assert!(is_html("text/html; charset=utf-8") && !is_html("text/plain"));
    }
}
