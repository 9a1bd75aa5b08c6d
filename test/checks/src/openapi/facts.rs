//! A document as a flat list of facts, each at a place: two documents differ where their facts do.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use apimachinery::Value;

/// Between the parts of a place.
const SEPARATOR: &str = " > ";

/// What a fact is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    /// The document as a whole: version, security.
    Document,
    /// A path exists.
    Path,
    /// A method of a path exists.
    Operation,
    /// Its id, tags, schemes and action.
    Naming,
    /// What it consumes and produces.
    MediaType,
    /// A parameter exists, of a path or an operation.
    Parameter,
    /// A response exists.
    Response,
    /// A definition exists.
    Definition,
    /// A property exists.
    Property,
    /// A type, or the definition that is referred to.
    Type,
    /// A format.
    Format,
    /// Something is required.
    Required,
    /// A default.
    Default,
    /// `x-kubernetes-list-type`, `-list-map-keys` and `-map-type`.
    ListType,
    /// `x-kubernetes-patch-strategy` and `-merge-key`.
    Patch,
    /// `x-kubernetes-group-version-kind`.
    Kind,
    /// Any other word of a schema.
    Extension,
    /// A text for readers.
    Description,
    /// The order of something that has none by meaning.
    Order,
}

impl Class {
    /// All of them.
    pub const ALL: [Self; 19] = [
        Self::Document,
        Self::Path,
        Self::Operation,
        Self::Naming,
        Self::MediaType,
        Self::Parameter,
        Self::Response,
        Self::Definition,
        Self::Property,
        Self::Type,
        Self::Format,
        Self::Required,
        Self::Default,
        Self::ListType,
        Self::Patch,
        Self::Kind,
        Self::Extension,
        Self::Description,
        Self::Order,
    ];

    /// Its name in reports and declarations.
    pub fn name(self) -> &'static str {
        match self {
            Self::Document => "document",
            Self::Path => "path",
            Self::Operation => "operation",
            Self::Naming => "naming",
            Self::MediaType => "media-type",
            Self::Parameter => "parameter",
            Self::Response => "response",
            Self::Definition => "definition",
            Self::Property => "property",
            Self::Type => "type",
            Self::Format => "format",
            Self::Required => "required",
            Self::Default => "default",
            Self::ListType => "list-type",
            Self::Patch => "patch",
            Self::Kind => "kind",
            Self::Extension => "extension",
            Self::Description => "description",
            Self::Order => "order",
        }
    }

    /// A thing with facts of its own: where it is missing, they are not reported.
    fn is_thing(self) -> bool {
        matches!(
            self,
            Self::Path
                | Self::Operation
                | Self::Parameter
                | Self::Response
                | Self::Definition
                | Self::Property
        )
    }
}

/// How two documents differ in a fact.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum How {
    /// Only the reference has it.
    Missing,
    /// Only we have it.
    Extra,
    /// Both have it, in different form.
    Differs,
}

impl How {
    /// Its name in reports and declarations.
    pub fn name(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Extra => "extra",
            Self::Differs => "differs",
        }
    }
}

/// One difference.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// What it is about.
    pub class: Class,
    /// How.
    pub how: How,
    /// Where, such as `/api/v1/pods > get > parameter query limit`.
    pub place: String,
    /// What we say.
    pub ours: String,
    /// What the reference says.
    pub theirs: String,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.how.name(), self.class.name(), self.place)?;
        match self.how {
            How::Missing if !self.theirs.is_empty() => write!(f, ": {}", brief(&self.theirs)),
            How::Extra if !self.ours.is_empty() => write!(f, ": {}", brief(&self.ours)),
            How::Differs => write!(f, ": {} and not {}", brief(&self.ours), brief(&self.theirs)),
            _ => Ok(()),
        }
    }
}

/// The beginning of a text, on one line.
fn brief(text: &str) -> String {
    const SHOWN: usize = 100;
    let line: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(SHOWN).collect();
    if text.chars().count() > SHOWN { format!("{line:?}...") } else { format!("{line:?}") }
}

/// The facts of a document.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Facts(BTreeMap<(String, Class, &'static str), String>);

impl Facts {
    /// The facts of an OpenAPI v2 document.
    pub fn of(document: &Value) -> Self {
        let mut facts = Self::default();
        for key in ["swagger", "security", "securityDefinitions"] {
            facts.value("", Class::Document, key, document.get(key));
        }
        facts.value("", Class::Document, "title", document.pointer("/info/title"));
        facts.value("", Class::Document, "version", document.pointer("/info/version"));
        for (path, item) in members(document, "paths") {
            facts.add(path, Class::Path, "", String::new());
            facts.parameters(document, path, item);
            for (method, operation) in members_of(item).filter(|(method, _)| *method != "parameters") {
                facts.operation(document, &format!("{path}{SEPARATOR}{method}"), operation);
            }
        }
        for (name, definition) in members(document, "definitions") {
            facts.add(name, Class::Definition, "", String::new());
            facts.schema(name, definition);
        }
        facts
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// There are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What differs, and how many facts agree. What is missing is reported without what it is made of.
    pub fn compare(&self, theirs: &Self) -> (Vec<Difference>, usize) {
        let mut out = Vec::new();
        let mut agreed = 0;
        let mut absent: BTreeSet<&str> = BTreeSet::new();
        let keys: BTreeSet<_> = self.0.keys().chain(theirs.0.keys()).collect();
        for key in keys {
            let (place, class, word) = key;
            if below(&absent, place, *class) {
                continue;
            }
            let (ours, reference) = (self.0.get(key), theirs.0.get(key));
            let how = match (ours, reference) {
                (Some(ours), Some(theirs)) if ours == theirs => {
                    agreed += 1;
                    continue;
                }
                (Some(_), Some(_)) => How::Differs,
                (Some(_), None) => How::Extra,
                _ => How::Missing,
            };
            if class.is_thing() && how != How::Differs {
                absent.insert(place);
            }
            let place = if word.is_empty() { place.clone() } else { format!("{place}{SEPARATOR}{word}") };
            out.push(Difference {
                class: *class,
                how,
                place,
                ours: ours.cloned().unwrap_or_default(),
                theirs: reference.cloned().unwrap_or_default(),
            });
        }
        (out, agreed)
    }

    fn add(&mut self, place: &str, class: Class, word: &'static str, value: String) {
        self.0.insert((place.to_owned(), class, word), value);
    }

    /// A fact of a value, where there is one.
    fn value(&mut self, place: &str, class: Class, word: &'static str, value: Option<&Value>) {
        if let Some(value) = value {
            let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            self.add(place, class, word, text);
        }
    }

    fn operation(&mut self, document: &Value, place: &str, operation: &Value) {
        self.add(place, Class::Operation, "", String::new());
        for word in ["operationId", "tags", "schemes", "x-kubernetes-action"] {
            self.value(place, Class::Naming, word, operation.get(word));
        }
        for word in ["consumes", "produces"] {
            for media_type in items(operation, word).filter_map(Value::as_str) {
                self.add(&format!("{place}{SEPARATOR}{media_type}"), Class::MediaType, word, String::new());
            }
        }
        self.value(place, Class::Description, "description", operation.get("description"));
        self.kinds(place, operation);
        self.parameters(document, place, operation);
        for (code, response) in members(operation, "responses") {
            let place = format!("{place}{SEPARATOR}{code}");
            self.add(&place, Class::Response, "", String::new());
            self.value(&place, Class::Description, "description", response.get("description"));
            if let Some(schema) = response.get("schema") {
                self.schema(&place, schema);
            }
        }
    }

    /// Parameters of a path or operation; shared ones are followed.
    fn parameters(&mut self, document: &Value, place: &str, of: &Value) {
        for parameter in items(of, "parameters") {
            let shared = parameter.get("$ref").and_then(Value::as_str).and_then(|r| r.strip_prefix('#'));
            let parameter = shared.and_then(|pointer| document.pointer(pointer)).unwrap_or(parameter);
            let text = |key: &str| parameter.get(key).and_then(Value::as_str).unwrap_or_default();
            let place = format!("{place}{SEPARATOR}parameter {} {}", text("in"), text("name"));
            self.add(&place, Class::Parameter, "", String::new());
            self.value(&place, Class::Required, "required", parameter.get("required"));
            self.value(&place, Class::Extension, "uniqueItems", parameter.get("uniqueItems"));
            if let Some(schema) = parameter.get("schema") {
                self.schema(&place, schema);
            }
            self.value(&place, Class::Type, "type", parameter.get("type"));
            self.value(&place, Class::Description, "description", parameter.get("description"));
        }
    }

    fn schema(&mut self, place: &str, schema: &Value) {
        for (key, value) in members_of(schema) {
            match key {
                "properties" => {
                    for (name, property) in members_of(value) {
                        let place = format!("{place}{SEPARATOR}{name}");
                        self.add(&place, Class::Property, "", String::new());
                        self.schema(&place, property);
                    }
                }
                "items" => self.schema(&format!("{place}{SEPARATOR}items"), value),
                "additionalProperties" if value.is_object() => {
                    self.schema(&format!("{place}{SEPARATOR}values"), value);
                }
                "required" => self.required(place, value),
                "x-kubernetes-group-version-kind" => self.kinds(place, schema),
                _ => {
                    let (class, word) = word(key);
                    self.add_word(place, class, word, key, value);
                }
            }
        }
    }

    fn add_word(&mut self, place: &str, class: Class, word: &'static str, key: &str, value: &Value) {
        if class == Class::Extension {
            // words this program has no name for keep theirs
            return self.value(&format!("{place}{SEPARATOR}{key}"), class, "", Some(value));
        }
        self.value(place, class, word, Some(value));
    }

    /// Each required field is a fact, their order another.
    fn required(&mut self, place: &str, value: &Value) {
        let names: Vec<&str> = value.as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let mut sorted = names.clone();
        sorted.sort_unstable();
        self.add(place, Class::Required, "required", sorted.join(","));
        self.add(place, Class::Order, "required", names.join(","));
    }

    /// Kinds as a set, their order apart.
    fn kinds(&mut self, place: &str, of: &Value) {
        const WORD: &str = "x-kubernetes-group-version-kind";
        let Some(value) = of.get(WORD) else { return };
        let Some(list) = value.as_array() else {
            return self.value(place, Class::Kind, WORD, Some(value));
        };
        let mut texts: Vec<String> = list.iter().map(ToString::to_string).collect();
        self.add(place, Class::Order, WORD, texts.join(","));
        texts.sort_unstable();
        for text in texts {
            self.add(&format!("{place}{SEPARATOR}{text}"), Class::Kind, WORD, String::new());
        }
    }
}

/// Whether a place is below one that is absent in one of the documents.
fn below(absent: &BTreeSet<&str>, place: &str, class: Class) -> bool {
    let itself = absent.contains(place) && !class.is_thing();
    itself || place.match_indices(SEPARATOR).any(|(end, _)| absent.contains(&place[..end]))
}

/// The class of a word of a schema.
fn word(key: &str) -> (Class, &'static str) {
    match key {
        "type" => (Class::Type, "type"),
        "$ref" => (Class::Type, "$ref"),
        "format" => (Class::Format, "format"),
        "default" => (Class::Default, "default"),
        "description" => (Class::Description, "description"),
        "x-kubernetes-list-type" => (Class::ListType, "x-kubernetes-list-type"),
        "x-kubernetes-list-map-keys" => (Class::ListType, "x-kubernetes-list-map-keys"),
        "x-kubernetes-map-type" => (Class::ListType, "x-kubernetes-map-type"),
        "x-kubernetes-patch-strategy" => (Class::Patch, "x-kubernetes-patch-strategy"),
        "x-kubernetes-patch-merge-key" => (Class::Patch, "x-kubernetes-patch-merge-key"),
        _ => (Class::Extension, ""),
    }
}

fn members<'a>(value: &'a Value, key: &str) -> impl Iterator<Item = (&'a str, &'a Value)> {
    value.get(key).into_iter().flat_map(members_of)
}

fn members_of(value: &Value) -> impl Iterator<Item = (&str, &Value)> {
    value.as_object().into_iter().flatten().map(|(k, v)| (k.as_str(), v))
}

fn items<'a>(value: &'a Value, key: &str) -> impl Iterator<Item = &'a Value> {
    value.get(key).and_then(Value::as_array).into_iter().flatten()
}

#[cfg(test)]
mod tests {
    use apimachinery::json;

    use super::*;

    fn document() -> Value {
        json!({
            "swagger": "2.0",
            "parameters": {"limit-x": {"name": "limit", "in": "query", "type": "integer"}},
            "paths": {"/api/v1/pods": {
                "parameters": [{"$ref": "#/parameters/limit-x"}],
                "get": {"operationId": "list", "produces": ["application/json"], "responses": {
                    "200": {"description": "OK", "schema": {"$ref": "#/definitions/Pod"}}}},
            }},
            "definitions": {"Pod": {
                "type": "object", "required": ["b", "a"],
                "properties": {"a": {"type": "array", "items": {"type": "string"}, "x-kubernetes-list-type": "set"},
                               "b": {"type": "integer", "format": "int32", "default": 0, "description": "text"}},
                "x-kubernetes-group-version-kind": [{"group": "", "kind": "Pod", "version": "v1"}],
            }},
        })
    }

    fn changed(change: impl FnOnce(&mut Value)) -> Vec<String> {
        let theirs = document();
        let mut ours = theirs.clone();
        change(&mut ours);
        let (differences, _) = Facts::of(&ours).compare(&Facts::of(&theirs));
        differences.iter().map(|d| format!("{} {} {}", d.how.name(), d.class.name(), d.place)).collect()
    }

    #[test]
    fn equal_documents_agree_in_everything() {
        let facts = Facts::of(&document());
        let (differences, agreed) = facts.compare(&Facts::of(&document()));
        assert_eq!((differences, agreed), (Vec::new(), facts.len()));
    }

    #[test]
    fn every_kind_of_change_is_seen_where_it_is() {
        type Change = fn(&mut Value);
        let cases: [(Change, &[&str]); 12] = [
            (|d| d["paths"] = json!({}), &["missing path /api/v1/pods"]),
            (|d| d["paths"]["/x"] = json!({"get": {"operationId": "x"}}), &["extra path /x"]),
            (
                |d| d["paths"]["/api/v1/pods"]["parameters"] = json!([]),
                &["missing parameter /api/v1/pods > parameter query limit"],
            ),
            (
                |d| d["paths"]["/api/v1/pods"]["get"]["produces"] = json!([]),
                &["missing media-type /api/v1/pods > get > application/json > produces"],
            ),
            (
                |d| {
                    d["paths"]["/api/v1/pods"]["get"]["responses"]["200"]["schema"] =
                        json!({"type": "string"});
                },
                &[
                    "missing type /api/v1/pods > get > 200 > $ref",
                    "extra type /api/v1/pods > get > 200 > type",
                ],
            ),
            (|d| d["definitions"]["Pod"]["required"] = json!(["a", "b"]), &["differs order Pod > required"]),
            (
                |d| d["definitions"]["Pod"]["required"] = json!(["b"]),
                &["differs required Pod > required", "differs order Pod > required"],
            ),
            (
                |d| d["definitions"]["Pod"]["properties"]["a"]["items"]["type"] = json!("integer"),
                &["differs type Pod > a > items > type"],
            ),
            (
                |d| d["definitions"]["Pod"]["properties"]["a"]["x-kubernetes-list-type"] = json!("atomic"),
                &["differs list-type Pod > a > x-kubernetes-list-type"],
            ),
            (
                |d| d["definitions"]["Pod"]["properties"]["b"] = json!({"type": "integer"}),
                &[
                    "missing format Pod > b > format",
                    "missing default Pod > b > default",
                    "missing description Pod > b > description",
                ],
            ),
            (|d| d["definitions"]["Pod"]["x-odd"] = json!(true), &["extra extension Pod > x-odd"]),
            (
                |d| {
                    d["definitions"]["Pod"]["x-kubernetes-group-version-kind"][0]["kind"] = json!("Pot");
                },
                &[
                    "differs order Pod > x-kubernetes-group-version-kind",
                    "missing kind Pod > {\"group\":\"\",\"kind\":\"Pod\",\"version\":\"v1\"} > x-kubernetes-group-version-kind",
                    "extra kind Pod > {\"group\":\"\",\"kind\":\"Pot\",\"version\":\"v1\"} > x-kubernetes-group-version-kind",
                ],
            ),
        ];
        for (change, expected) in cases {
            assert_eq!(changed(change), expected);
        }
    }
}
