//! The kinds of storage.k8s.io. Source: `pkg/apis/storage`.

use apimachinery::Value;
use apimachinery::strategy::Resets;

use super::print::{age, list, name, or, str_at, texts};
use super::resources::check_quantity;
use super::rules::{DEFAULT, Rules};
use crate::cursor::{At, immutable, one_of, same, shape};
use crate::edit::{default_to, spec};
use crate::names;

/// Marks the class of claims that name none.
const DEFAULT_CLASS: [&str; 2] =
    ["storageclass.kubernetes.io/is-default-class", "storageclass.beta.kubernetes.io/is-default-class"];

pub(super) const CLASSES: Rules = Rules {
    default: |_, o| {
        if let Some(class) = o.as_object_mut() {
            default_to(class, "reclaimPolicy", "Delete");
            default_to(class, "volumeBindingMode", "Immediate");
        }
    },
    validate: |o| {
        let (object, mut errors) = (At::root(o), Vec::new());
        let provisioner = object.get("provisioner");
        if provisioner.is_empty() {
            errors.push(provisioner.required(""));
        } else {
            shape(&mut errors, &provisioner, names::label_key(&provisioner.text().to_lowercase()));
        }
        one_of(&mut errors, &object.get("reclaimPolicy"), &["Delete", "Retain"]);
        one_of(&mut errors, &object.get("volumeBindingMode"), &["Immediate", "WaitForFirstConsumer"]);
        errors
    },
    validate_update: |_, new, old| {
        let (new, old, mut errors) = (At::root(new), At::root(old), Vec::new());
        for (field, text) in [
            ("parameters", "updates to parameters are forbidden."),
            ("provisioner", "updates to provisioner are forbidden."),
            ("reclaimPolicy", "updates to reclaimPolicy are forbidden."),
        ] {
            if !same(new.get(field).value(), old.get(field).value()) {
                errors.push(new.get(field).forbidden(text));
            }
        }
        immutable(&mut errors, &new.get("volumeBindingMode"), &old.get("volumeBindingMode"));
        errors
    },
    columns: &[
        ("Name", "string"),
        ("Provisioner", "string"),
        ("ReclaimPolicy", "string"),
        ("VolumeBindingMode", "string"),
        ("AllowVolumeExpansion", "string"),
        ("Age", "string"),
    ],
    row: |o, now| {
        let default = DEFAULT_CLASS.iter().any(|a| str_at(o, &["metadata", "annotations", a]) == "true");
        let own = name(o);
        vec![
            if default { format!("{own} (default)").into() } else { own.into() },
            str_at(o, &["provisioner"]).into(),
            or(str_at(o, &["reclaimPolicy"]), "Delete"),
            or(str_at(o, &["volumeBindingMode"]), "Immediate"),
            (o["allowVolumeExpansion"] == true).to_string().into(),
            age(o, now),
        ]
    },
    ..DEFAULT
};

pub(super) const ATTRIBUTES_CLASSES: Rules = Rules {
    validate: |o| {
        let (object, mut errors) = (At::root(o), Vec::new());
        let driver = object.get("driverName");
        if driver.is_empty() {
            errors.push(driver.required(""));
        }
        if object.get("parameters").is_empty() {
            errors.push(object.get("parameters").required("must contain at least one key/value pair"));
        }
        errors
    },
    validate_update: |_, new, old| {
        let (new, old, mut errors) = (At::root(new), At::root(old), Vec::new());
        for (field, text) in [
            ("driverName", "updates to driverName are forbidden."),
            ("parameters", "updates to parameters are forbidden."),
        ] {
            if !same(new.get(field).value(), old.get(field).value()) {
                errors.push(new.get(field).forbidden(text));
            }
        }
        errors
    },
    columns: &[("Name", "string"), ("DriverName", "string"), ("Age", "string")],
    row: |o, now| vec![name(o).into(), str_at(o, &["driverName"]).into(), age(o, now)],
    ..DEFAULT
};

pub(super) const ATTACHMENTS: Rules = Rules {
    resets: &[("status", Resets::Except(&["metadata", "spec"]))],
    validate: |o| {
        let (object, mut errors) = (At::root(o), Vec::new());
        let spec = object.get("spec");
        for field in ["attacher", "nodeName"] {
            if spec.get(field).is_empty() {
                errors.push(spec.get(field).required(""));
            }
        }
        let source = spec.get("source");
        let named = source.get("persistentVolumeName").present();
        if !named && !source.get("inlineVolumeSpec").present() {
            errors.push(
                source.required("must specify exactly one of inlineVolumeSpec and persistentVolumeName"),
            );
        }
        errors
    },
    validate_update: |context, new, old| {
        let mut errors = Vec::new();
        if context.subresource != "status" {
            immutable(&mut errors, &At::root(new).get("spec"), &At::root(old).get("spec"));
        }
        errors
    },
    columns: &[
        ("Name", "string"),
        ("Attacher", "string"),
        ("PV", "string"),
        ("Node", "string"),
        ("Attached", "boolean"),
        ("Age", "string"),
    ],
    row: |o, now| {
        vec![
            name(o).into(),
            str_at(o, &["spec", "attacher"]).into(),
            str_at(o, &["spec", "source", "persistentVolumeName"]).into(),
            str_at(o, &["spec", "nodeName"]).into(),
            (o["status"]["attached"] == true).into(),
            age(o, now),
        ]
    },
    ..DEFAULT
};

pub(super) const CSI_NODES: Rules = Rules {
    validate: |o| {
        let mut errors = Vec::new();
        for driver in At::root(o).at(&["spec", "drivers"]).items() {
            for field in ["name", "nodeID"] {
                if driver.get(field).is_empty() {
                    errors.push(driver.get(field).required(""));
                }
            }
        }
        errors
    },
    columns: &[("Name", "string"), ("Drivers", "integer"), ("Age", "string")],
    row: |o, now| vec![name(o).into(), list(o, &["spec", "drivers"]).len().into(), age(o, now)],
    ..DEFAULT
};

pub(super) const CSI_DRIVERS: Rules = Rules {
    generation: true,
    default: |_, o| {
        let Some(spec) = spec(o) else { return };
        default_to(spec, "attachRequired", true);
        default_to(spec, "podInfoOnMount", false);
        default_to(spec, "storageCapacity", false);
        default_to(spec, "fsGroupPolicy", "ReadWriteOnceWithFSType");
        default_to(spec, "requiresRepublish", false);
        default_to(spec, "seLinuxMount", false);
        if spec.get("volumeLifecycleModes").and_then(Value::as_array).is_none_or(Vec::is_empty) {
            spec.insert("volumeLifecycleModes".into(), Value::Array(vec!["Persistent".into()].into()));
        }
    },
    validate: |o| {
        let (spec, mut errors) = (At::root(o).get("spec"), Vec::new());
        for mode in spec.get("volumeLifecycleModes").items() {
            if !matches!(mode.text(), "Ephemeral" | "Persistent") {
                errors.push(mode.not_supported(&["Ephemeral", "Persistent"]));
            }
        }
        one_of(&mut errors, &spec.get("fsGroupPolicy"), &["ReadWriteOnceWithFSType", "File", "None"]);
        errors
    },
    validate_update: |_, new, old| {
        let (new, old, mut errors) = (At::root(new), At::root(old), Vec::new());
        for field in ["attachRequired", "volumeLifecycleModes"] {
            immutable(&mut errors, &new.at(&["spec", field]), &old.at(&["spec", field]));
        }
        errors
    },
    columns: &[
        ("Name", "string"),
        ("AttachRequired", "boolean"),
        ("PodInfoOnMount", "boolean"),
        ("StorageCapacity", "boolean"),
        ("TokenRequests", "string"),
        ("RequiresRepublish", "boolean"),
        ("Modes", "string"),
        ("Age", "string"),
    ],
    row: |o, now| {
        let flag = |field: &str, none: bool| Value::from(o["spec"][field].as_bool().unwrap_or(none));
        let audiences: Vec<&str> =
            list(o, &["spec", "tokenRequests"]).iter().map(|t| str_at(t, &["audience"])).collect();
        let modes: Vec<&str> = texts(list(o, &["spec", "volumeLifecycleModes"])).collect();
        vec![
            name(o).into(),
            flag("attachRequired", true),
            flag("podInfoOnMount", false),
            flag("storageCapacity", false),
            or(&audiences.join(","), "<unset>"),
            flag("requiresRepublish", false),
            or(&modes.join(","), "<none>"),
            age(o, now),
        ]
    },
    ..DEFAULT
};

pub(super) const CAPACITIES: Rules = Rules {
    validate: |o| {
        let (object, mut errors) = (At::root(o), Vec::new());
        let class = object.get("storageClassName");
        if class.is_empty() {
            errors.push(class.required(""));
        }
        for field in ["capacity", "maximumVolumeSize"] {
            check_quantity(&mut errors, &object.get(field), "storage");
        }
        errors
    },
    validate_update: |_, new, old| {
        let (new, old, mut errors) = (At::root(new), At::root(old), Vec::new());
        for field in ["nodeTopology", "storageClassName"] {
            immutable(&mut errors, &new.get(field), &old.get(field));
        }
        errors
    },
    columns: &[("Name", "string"), ("StorageClassName", "string"), ("Capacity", "string")],
    row: |o, _| {
        vec![name(o).into(), str_at(o, &["storageClassName"]).into(), or(str_at(o, &["capacity"]), "<unset>")]
    },
    ..DEFAULT
};

#[cfg(test)]
mod tests {
    use super::*;
    use apimachinery::json;
    use apimachinery::strategy::WriteContext;
    use jiff::Timestamp;

    #[test]
    fn classes_default_print_and_stay() {
        let mut class = json!({"metadata": {"name": "c", "annotations":
            {"storageclass.kubernetes.io/is-default-class": "true"}}, "provisioner": "a.b/c"});
        (CLASSES.default)("v1", &mut class);
        assert_eq!((CLASSES.validate)(&class), []);
        let row = (CLASSES.row)(&class, Timestamp::UNIX_EPOCH);
        assert_eq!(row[..4], ["c (default)", "a.b/c", "Delete", "Immediate"].map(Value::from));
        let context =
            WriteContext { now: Timestamp::UNIX_EPOCH, user: "u", groups: &[], subresource: "", group: "" };
        let mut changed = class.clone();
        changed["provisioner"] = json!("other");
        let errors = (CLASSES.validate_update)(&context, &changed, &class);
        assert_eq!(errors[0].to_string(), "provisioner: Forbidden: updates to provisioner are forbidden.");
    }

    #[test]
    fn drivers_say_what_they_need() {
        let mut driver = json!({"metadata": {"name": "d"}, "spec": {}});
        (CSI_DRIVERS.default)("v1", &mut driver);
        assert_eq!((CSI_DRIVERS.validate)(&driver), []);
        let row = (CSI_DRIVERS.row)(&driver, Timestamp::UNIX_EPOCH);
        assert_eq!(
            row[1..7],
            [json!(true), json!(false), json!(false), json!("<unset>"), json!(false), json!("Persistent")]
        );
    }
}
