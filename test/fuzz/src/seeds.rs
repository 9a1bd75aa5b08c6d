//! Inputs to begin with, made from the sample objects of every resource: a corpus nobody has to keep.

use std::collections::BTreeMap;

use apimachinery::descriptor::ResourceDescriptor;
use apimachinery::json;
use apimachinery::meta::GroupVersionKind;
use apimachinery::{Value, protobuf, yaml};
use http::{HeaderValue, Request, Uri};

/// Sample objects, one a resource.
const SAMPLES: [&str; 4] = [
    include_str!("../../api-operations/samples/core.yaml"),
    include_str!("../../api-operations/samples/workloads.yaml"),
    include_str!("../../api-operations/samples/cluster.yaml"),
    include_str!("../../api-operations/samples/services.yaml"),
];

/// Inputs that get far, and some that were once trouble elsewhere.
pub const BY_HAND: [&[u8]; 23] = [
    br#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"p","labels":{"a":"b"}},"spec":{"containers":[{"name":"c","image":"i","resources":{"limits":{"cpu":"100m"}}}]}}"#,
    br#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"p","name":"q"},"unknown":[1,2.5e300,-0,null,true]}"#,
    b"apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec:\n  containers:\n  - {name: c, image: i}\n",
    b"a: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b]\nd: &d [*c,*c,*c,*c,*c,*c,*c,*c,*c]\ne: [*d,*d,*d,*d,*d,*d,*d,*d,*d]\n",
    b"a: &a\n  b: *a\n---\n- !!binary aGVsbG8=\n- 0x1F\n- 1e3\n- ~\n",
    b"k8s\0\n\t\n\x02v1\x12\x03Pod\x12\x10\n\x0e\n\x01p\x12\0\x1a\0\"\0*\x002\08\0B\0",
    br#"0[{"op":"replace","path":"/spec/containers/0/image","value":"x"},{"op":"copy","from":"/spec","path":"/spec/a"},{"op":"test","path":"","value":{}}]"#,
    br#"1{"metadata":{"labels":null},"spec":{"containers":[]}}"#,
    br#"2{"spec":{"$setElementOrder/containers":[{"name":"d"},{"name":"c"}],"containers":[{"name":"c","$patch":"delete"}],"$retainKeys":["containers"]}}"#,
    br#"2{"metadata":{"$deleteFromPrimitiveList/finalizers":["example.com/a"]},"spec":{"volumes":[{"$patch":"replace"},{"name":"w","$retainKeys":["name","hostPath"],"hostPath":{"path":"/"}}],"tolerations":[{"key":"k","$patch":"merge"}]}}"#,
    b"a=b,c in (d,e),!f,g notin (h),i,j!=k,l>5",
    b"metadata.name=a,spec.nodeName!=b\\,c",
    br#"{"f:metadata":{"f:labels":{".":{},"f:a":{}}},"f:spec":{"f:containers":{"k:{\"name\":\"c\"}":{".":{},"f:image":{}},"v:1":{},"i:0":{}}}}"#,
    b"eyJ2IjoibWV0YS5rOHMuaW8vdjEiLCJydiI6MTIsInN0YXJ0IjoiZGVmYXVsdC9hXHUwMDAwIn0",
    b"/api/v1/namespaces/default/pods/p/log?container=c&follow=true&%zz=1",
    b"/apis/apps/v1/watch/namespaces/n/deployments/d/../x?fieldSelector=metadata.name%3Da",
    b"[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[",
    b"%YAML 1.2\n--- |\n text\n...\n? [complex, key]\n: value\n<<: {a: b}\n",
    b"-1234567890123456789.5e-3Ki",
    b"2024-02-29T23:59:60.999999999+23:59",
    b"-2562047h47m16.854775808s",
    b"{.a[?(@.b>=1)].c[-1:0:2]..*['x','y']}",
    b"GET /api/v1/namespaces/default/pods?limit=1&labelSelector=a%20in%20(b)&fieldSelector=spec.nodeName!=x&resourceVersion=0&resourceVersionMatch=NotOlderThan HTTP/1.1\naccept: application/json;as=Table;v=v1;g=meta.k8s.io;q=0.5, application/vnd.kubernetes.protobuf;stream=watch\n\n",
];

/// A resource with a sample object.
pub struct Creation {
    /// Path of its collection.
    path: String,
    name: String,
    object: Value,
    gvk: GroupVersionKind,
}

/// One sample of every resource, with the paths it has in the namespace `default`.
pub fn creations() -> Vec<Creation> {
    let resources = apis::resources(&apis::ServedVersions::default());
    let mut all = Vec::new();
    for text in SAMPLES {
        let samples = yaml::parse(text.as_bytes()).expect("samples are YAML");
        for sample in samples.as_array().into_iter().flatten() {
            let id = sample["resource"].as_str().unwrap_or_default();
            let mut parts = id.rsplitn(3, '/');
            let (plural, version) = (parts.next().unwrap_or(""), parts.next().unwrap_or(""));
            let group = parts.next().unwrap_or("");
            let found = resources.iter().find(|r| r.group == group && r.plural == plural);
            all.extend(found.map(|descriptor| creation(descriptor, version, sample)));
        }
    }
    all
}

fn creation(descriptor: &ResourceDescriptor, version: &str, sample: &Value) -> Creation {
    let gvk = descriptor.gvk(version);
    let root = if gvk.group.is_empty() {
        format!("/api/{version}")
    } else {
        format!("/apis/{}/{version}", gvk.group)
    };
    let namespace = if descriptor.namespaced { "/namespaces/default" } else { "" };
    let name = sample["name"].as_str().unwrap_or("walk-$N").replace("$N", "1");
    let mut object = sample["object"].clone();
    fill(&mut object);
    object["apiVersion"] = json!(gvk.group_version().to_string());
    object["kind"] = json!(gvk.kind);
    object["metadata"]["name"] = json!(name);
    object["metadata"]["labels"]["walk"] = json!("n1");
    Creation { path: format!("{root}{namespace}/{}", descriptor.plural), name, object, gvk }
}

fn fill(value: &mut Value) {
    match value {
        Value::String(text) => *text = text.replace("$NAMESPACE", "default").replace("$N", "1"),
        Value::Array(items) => items.iter_mut().for_each(fill),
        Value::Object(fields) => fields.values_mut().for_each(fill),
        _ => {}
    }
}

impl Creation {
    /// The request that makes the object.
    pub fn into_request(self) -> Request<Vec<u8>> {
        let mut request = Request::new(self.object.to_string().into_bytes());
        *request.method_mut() = http::Method::POST;
        *request.uri_mut() = Uri::try_from(self.path).expect("a path");
        request.headers_mut().insert("content-type", HeaderValue::from_static("application/json"));
        request
    }

    fn protobuf(&self) -> Option<Vec<u8>> {
        let catalog = apis::catalog();
        let node = catalog.kind(&self.gvk)?.node;
        protobuf::encode_object(catalog.schema(), node, &self.object).ok()
    }

    /// Requests that make, read and change it, in every format.
    fn requests(&self) -> Vec<Vec<u8>> {
        let Self { path, name, object, .. } = self;
        let (json, yaml) = (object.to_string(), yaml::to_string(object));
        let label = json!({"metadata": {"labels": {"b": "c"}}});
        let operation = json!([{"op": "add", "path": "/metadata/labels/b", "value": "c"}]);
        let mut all: Vec<Vec<u8>> = [
            ("POST", path.clone(), "application/json", json.clone()),
            (
                "POST",
                format!("{path}?dryRun=All&fieldValidation=Strict&fieldManager=f"),
                "application/yaml",
                yaml.clone(),
            ),
            ("PUT", format!("{path}/{name}"), "application/json", json),
            ("PUT", format!("{path}/{name}/status"), "application/json", object.to_string()),
            ("PATCH", format!("{path}/{name}"), "application/merge-patch+json", label.to_string()),
            ("PATCH", format!("{path}/{name}"), "application/strategic-merge-patch+json", label.to_string()),
            ("PATCH", format!("{path}/{name}"), "application/json-patch+json", operation.to_string()),
            (
                "PATCH",
                format!("{path}/{name}?fieldManager=a&force=true"),
                "application/apply-patch+yaml",
                yaml,
            ),
            (
                "DELETE",
                format!("{path}/{name}?propagationPolicy=Orphan&dryRun=All"),
                "application/json",
                String::new(),
            ),
            (
                "DELETE",
                format!("{path}?labelSelector=none%3Dsuch"),
                "application/json",
                json!({"gracePeriodSeconds": 0}).to_string(),
            ),
            ("GET", format!("{path}/{name}"), "application/yaml", String::new()),
            (
                "GET",
                format!("{path}?limit=1&continue="),
                "application/vnd.kubernetes.protobuf",
                String::new(),
            ),
            (
                "GET",
                format!("{path}?watch=1&resourceVersion=0&timeoutSeconds=1&allowWatchBookmarks=true"),
                "application/json;as=Table;g=meta.k8s.io;v=v1",
                String::new(),
            ),
        ]
        .into_iter()
        .map(|(method, target, media, body)| {
            let header = if method == "GET" { "accept" } else { "content-type" };
            format!("{method} {target}\n{header}: {media}\n\n{body}").into_bytes()
        })
        .collect();
        if let Some(message) = self.protobuf() {
            let mut request = format!("POST {path}\ncontent-type: {}\n\n", protobuf::MEDIA_TYPE).into_bytes();
            request.extend(message);
            all.push(request);
        }
        all
    }
}

/// What an entry point begins with.
pub fn of(entry: &str) -> Vec<Vec<u8>> {
    let mut all: Vec<Vec<u8>> = BY_HAND.iter().map(|seed| seed.to_vec()).collect();
    let creations = creations();
    let each = |make: &dyn Fn(&Creation) -> Option<Vec<u8>>| -> Vec<Vec<u8>> {
        creations.iter().filter_map(make).collect()
    };
    let with_place = |bytes: &[u8]| (0..4_u8).map(|place| [&[place], bytes].concat()).collect::<Vec<_>>();
    all.extend(match entry {
        "json_body" => each(&|c| Some(c.object.to_string().into_bytes())),
        "yaml_body" | "apply" => each(&|c| Some(yaml::to_string(&c.object).into_bytes())),
        "protobuf_body" => each(&Creation::protobuf),
        "request" => creations.iter().flat_map(Creation::requests).collect(),
        "stored" => each(&|c| Some(c.object.to_string().into_bytes()))
            .into_iter()
            .chain(each(&Creation::protobuf))
            .flat_map(|bytes| with_place(&bytes))
            .collect(),
        _ => Vec::new(),
    });
    all
}

/// The seeds of each entry by name, for a corpus on disk.
pub fn corpora() -> BTreeMap<&'static str, Vec<Vec<u8>>> {
    crate::ENTRIES.iter().map(|(name, _)| (*name, of(name))).collect()
}
