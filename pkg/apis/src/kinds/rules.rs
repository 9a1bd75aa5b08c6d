//! The rules of a kind as one value: what is not said is [`DEFAULT`].

use apimachinery::Value;
use apimachinery::meta::name;
use apimachinery::status::FieldError;
use apimachinery::strategy::{Resets, Strategy, WriteContext};
use apimachinery::table::{Part, age};
use apimachinery::validation::dns1123_subdomain;
use jiff::Timestamp;

/// What is special about a kind. The fields are the methods of [`Strategy`].
pub(crate) struct Rules {
    pub(crate) generation: bool,
    pub(crate) default: fn(version: &str, object: &mut Value),
    /// The members that `default` reads and writes, if no others.
    pub(crate) defaults_depend_on: Option<&'static [&'static str]>,
    pub(crate) prepare_create: fn(&WriteContext<'_>, &mut Value),
    pub(crate) prepare_update: fn(&WriteContext<'_>, &mut Value, &Value),
    pub(crate) validate: fn(&Value) -> Vec<FieldError>,
    pub(crate) validate_update: fn(&WriteContext<'_>, &Value, &Value) -> Vec<FieldError>,
    /// Problems of new objects that changed ones may have.
    pub(crate) validate_new: fn(&WriteContext<'_>, &Value) -> Vec<FieldError>,
    /// What subresources keep of the old object, beyond what all do.
    pub(crate) resets: &'static [(&'static str, Resets)],
    pub(crate) warnings: fn(&Value, Option<&Value>) -> Vec<String>,
    pub(crate) name: fn(&str, bool) -> Vec<String>,
    pub(crate) create_on_update: bool,
    pub(crate) unconditional_update: bool,
    pub(crate) keeps_status: bool,
    pub(crate) holds_deletion: fn(&Value) -> bool,
    pub(crate) begin_deletion: fn(&mut Value),
    /// Of kinds that are deleted gracefully.
    pub(crate) grace: Option<fn(&Value, Option<i64>) -> i64>,
    pub(crate) orphan: bool,
    /// Columns by heading and type; a heading that starts with `+` is for `-o wide`.
    pub(crate) columns: &'static [(&'static str, &'static str)],
    pub(crate) row: fn(&Value, Timestamp) -> Vec<Value>,
    /// The part of an object that `row` looks at.
    pub(crate) printed: Part,
}

/// A kind without any rules of its own.
pub(crate) const DEFAULT: Rules = Rules {
    generation: false,
    default: |_, _| {},
    defaults_depend_on: None,
    prepare_create: |_, _| {},
    prepare_update: |_, _, _| {},
    validate: |_| Vec::new(),
    validate_update: |_, _, _| Vec::new(),
    validate_new: |_, _| Vec::new(),
    resets: &[],
    warnings: |_, _| Vec::new(),
    name: dns1123_subdomain,
    create_on_update: false,
    unconditional_update: true,
    keeps_status: false,
    holds_deletion: |_| false,
    begin_deletion: |_| {},
    grace: None,
    orphan: false,
    columns: &[("Name", "string"), ("Age", "string")],
    row: |object, now| vec![name(object).into(), age(object, now)],
    printed: Part::Whole,
};

/// [`Rules`] as a strategy.
pub(super) struct KindStrategy {
    pub(super) rules: &'static Rules,
    /// The resource has the subresource `status`.
    pub(super) has_status: bool,
}

impl Strategy for KindStrategy {
    fn default_object(&self, version: &str, object: &mut Value) {
        (self.rules.default)(version, object);
    }

    fn defaults_depend_on(&self) -> Option<&'static [&'static str]> {
        self.rules.defaults_depend_on
    }

    fn has_status(&self) -> bool {
        self.has_status
    }

    fn has_generation(&self) -> bool {
        self.rules.generation
    }

    fn prepare_for_create(&self, context: &WriteContext<'_>, object: &mut Value) {
        (self.rules.prepare_create)(context, object);
    }

    fn prepare_for_update(&self, context: &WriteContext<'_>, new: &mut Value, old: &Value) {
        (self.rules.prepare_update)(context, new, old);
    }

    fn resets(&self, subresource: &str) -> Resets {
        let own = self.rules.resets.iter().find(|(name, _)| *name == subresource);
        match (own, subresource) {
            (Some((_, resets)), _) => *resets,
            (None, "") if self.has_status => Resets::Except(&["status"]),
            (None, "status") => Resets::Except(&["spec"]),
            _ => Resets::Except(&[]),
        }
    }

    fn validate_create(&self, context: &WriteContext<'_>, object: &Value) -> Vec<FieldError> {
        let mut errors = (self.rules.validate)(object);
        errors.extend((self.rules.validate_new)(context, object));
        errors
    }

    fn validate_update(&self, context: &WriteContext<'_>, new: &Value, old: &Value) -> Vec<FieldError> {
        (self.rules.validate_update)(context, new, old)
    }

    fn warnings(&self, new: &Value, old: Option<&Value>) -> Vec<String> {
        (self.rules.warnings)(new, old)
    }

    fn validate_name(&self, name: &str, prefix: bool) -> Vec<String> {
        (self.rules.name)(name, prefix)
    }

    fn allow_create_on_update(&self) -> bool {
        self.rules.create_on_update
    }

    fn allow_unconditional_update(&self) -> bool {
        self.rules.unconditional_update
    }

    fn deletion_grace(&self, object: &Value, requested: Option<i64>) -> Option<i64> {
        self.rules.grace.map(|grace| grace(object, requested))
    }

    fn keeps_status_on_create(&self) -> bool {
        self.rules.keeps_status
    }

    fn holds_deletion(&self, object: &Value) -> bool {
        (self.rules.holds_deletion)(object)
    }

    fn begin_deletion(&self, object: &mut Value) {
        (self.rules.begin_deletion)(object);
    }

    fn orphan_by_default(&self) -> bool {
        self.rules.orphan
    }

    fn table_row(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        (self.rules.row)(object, now)
    }

    fn table_part(&self) -> &'static Part {
        &self.rules.printed
    }
}
