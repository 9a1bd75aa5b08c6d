//! Resources with effects: bindings, evictions, tokens, reviews, addresses of services, rights, admission, proxies.

use auth::UserInfo;
use component::http::full;
use integration::{Answer, Cluster};
use serde_json::{Value, json};

const PODS: &str = "/api/v1/namespaces/default/pods";
const SERVICES: &str = "/api/v1/namespaces/default/services";

/// Sends JSON and expects a code.
async fn ask(cluster: &Cluster, method: &str, path: &str, body: Value, code: u16) -> Answer {
    let text = if body.is_null() { String::new() } else { body.to_string() };
    let answer = cluster.call(method, path, &text).await.expect("answered");
    assert_eq!(answer.code, code, "{method} {path}: {}", answer.text());
    answer
}

/// Waits until the cache has seen every write of a resource so far, which a list does.
async fn seen(cluster: &Cluster, path: &str) {
    ask(cluster, "GET", path, Value::Null, 200).await;
}

async fn ask_as(cluster: &Cluster, user: &UserInfo, method: &str, path: &str, body: Value) -> Answer {
    let text = if body.is_null() { String::new() } else { body.to_string() };
    cluster.call_as(user.clone(), method, path, full(text), &[]).await.expect("answered")
}

fn pod(name: &str) -> Value {
    json!({"metadata": {"name": name, "labels": {"app": "x"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}})
}

/// A service account, so that pods are let in.
async fn with_account() -> Cluster {
    let cluster = Cluster::start().await.expect("started");
    ask(
        &cluster,
        "POST",
        "/api/v1/namespaces/default/serviceaccounts",
        json!({"metadata": {"name": "default"}}),
        201,
    )
    .await;
    cluster
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_are_admitted_bound_and_evicted() {
    let cluster = with_account().await;
    let made = ask(&cluster, "POST", PODS, pod("p"), 201).await.json();
    assert_eq!(made["spec"]["serviceAccountName"], "default");
    assert_eq!(made["spec"]["priority"], 0);
    assert_eq!(made["spec"]["tolerations"].as_array().map(Vec::len), Some(2));
    let mount = &made["spec"]["containers"][0]["volumeMounts"][0];
    assert_eq!(mount["mountPath"], "/var/run/secrets/kubernetes.io/serviceaccount");

    let binding = json!({"metadata": {"name": "p"}, "target": {"kind": "Node", "name": "n1"}});
    let bound = ask(&cluster, "POST", &format!("{PODS}/p/binding"), binding.clone(), 201).await.json();
    assert_eq!((&bound["kind"], &bound["status"]), (&json!("Status"), &json!("Success")));
    let now = ask(&cluster, "GET", &format!("{PODS}/p"), Value::Null, 200).await.json();
    assert_eq!(now["spec"]["nodeName"], "n1");
    assert_eq!(now["status"]["conditions"][0]["type"], "PodScheduled");
    let again = ask(&cluster, "POST", "/api/v1/namespaces/default/bindings", binding, 409).await;
    assert_eq!(
        again.message(),
        "Operation cannot be fulfilled on pods/binding \"p\": pod p is already assigned to node \"n1\""
    );

    // a budget without room, then with some
    let budgets = "/apis/policy/v1/namespaces/default/poddisruptionbudgets";
    let budget = json!({"metadata": {"name": "b"}, "spec": {"minAvailable": 1, "selector": {"matchLabels": {"app": "x"}}}});
    ask(&cluster, "POST", budgets, budget, 201).await;
    let ready = json!({"status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}});
    let merge = [("content-type", "application/merge-patch+json")];
    let patched = cluster
        .call_with("PATCH", &format!("{PODS}/p/status"), &ready.to_string(), &merge)
        .await
        .expect("ok");
    assert_eq!(patched.code, 200, "{}", patched.text());
    let status = |allowed: i64| {
        json!({"status": {"observedGeneration": 1, "disruptionsAllowed": allowed, "currentHealthy": 1, "desiredHealthy": 1, "expectedPods": 1}}).to_string()
    };
    let eviction = json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "p"}});
    for (allowed, code) in [(0, 429), (1, 201)] {
        let patched = cluster
            .call_with("PATCH", &format!("{budgets}/b/status"), &status(allowed), &merge)
            .await
            .expect("ok");
        assert_eq!(patched.code, 200, "{}", patched.text());
        let answer =
            ask(&cluster, "POST", &format!("{PODS}/p/eviction"), eviction.clone(), code).await.json();
        if code == 429 {
            assert_eq!(answer["details"]["causes"][0]["reason"], "DisruptionBudget");
        }
    }
    let paid = ask(&cluster, "GET", &format!("{budgets}/b"), Value::Null, 200).await.json();
    assert_eq!(paid["status"]["disruptionsAllowed"], 0);
    assert!(paid["status"]["disruptedPods"]["p"].is_string());
    let leaving = ask(&cluster, "GET", &format!("{PODS}/p"), Value::Null, 200).await.json();
    assert!(leaving["metadata"]["deletionTimestamp"].is_string(), "{leaving}");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn admission_refuses() {
    let cluster = with_account().await;
    let cases = [
        ("/api/v1/namespaces/none/pods", pod("a"), 404, "namespaces \"none\" not found"),
        (
            PODS,
            json!({"metadata": {"name": "a"}, "spec": {"serviceAccountName": "x", "containers": [{"name": "c", "image": "i"}]}}),
            403,
            "pods \"a\" is forbidden: error looking up service account default/x: serviceaccount \"x\" not found",
        ),
        (
            PODS,
            json!({"metadata": {"name": "a"}, "spec": {"priorityClassName": "x", "containers": [{"name": "c", "image": "i"}]}}),
            403,
            "pods \"a\" is forbidden: no PriorityClass with name x was found",
        ),
    ];
    for (path, body, code, message) in cases {
        assert_eq!(ask(&cluster, "POST", path, body, code).await.message(), message);
    }
    let default = ask(&cluster, "DELETE", "/api/v1/namespaces/default", Value::Null, 403).await;
    assert_eq!(default.message(), "namespaces \"default\" is forbidden: this namespace may not be deleted");

    let strict =
        json!({"metadata": {"name": "strict", "labels": {"pod-security.kubernetes.io/enforce": "baseline"}}});
    ask(&cluster, "POST", "/api/v1/namespaces", strict, 201).await;
    ask(
        &cluster,
        "POST",
        "/api/v1/namespaces/strict/serviceaccounts",
        json!({"metadata": {"name": "default"}}),
        201,
    )
    .await;
    let mut host = pod("h");
    host["spec"]["hostNetwork"] = json!(true);
    let refused = ask(&cluster, "POST", "/api/v1/namespaces/strict/pods", host, 403).await;
    assert!(
        refused
            .message()
            .contains("violates PodSecurity \"baseline:latest\": host namespaces (hostNetwork=true)")
    );

    let quota = json!({"metadata": {"name": "q"}, "spec": {"hard": {"configmaps": "1"}}});
    ask(&cluster, "POST", "/api/v1/namespaces/strict/resourcequotas", quota, 201).await;
    let counted = json!({"status": {"hard": {"configmaps": "1"}, "used": {"configmaps": "0"}}}).to_string();
    let merge = [("content-type", "application/merge-patch+json")];
    let path = "/api/v1/namespaces/strict/resourcequotas/q/status";
    assert_eq!(cluster.call_with("PATCH", path, &counted, &merge).await.expect("ok").code, 200);
    seen(&cluster, "/api/v1/namespaces/strict/resourcequotas").await;
    let maps = "/api/v1/namespaces/strict/configmaps";
    ask(&cluster, "POST", maps, json!({"metadata": {"name": "a"}}), 201).await;
    let full = ask(&cluster, "POST", maps, json!({"metadata": {"name": "b"}}), 403).await;
    assert_eq!(
        full.message(),
        "configmaps \"b\" is forbidden: exceeded quota: q, requested: configmaps=1, used: configmaps=1, limited: configmaps=1"
    );
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_authenticate_until_their_account_is_gone() {
    let cluster = with_account().await;
    let path = "/api/v1/namespaces/default/serviceaccounts/default/token";
    let request = ask(&cluster, "POST", path, json!({"spec": {"expirationSeconds": 600}}), 201).await.json();
    let token = request["status"]["token"].as_str().expect("token").to_owned();
    assert_eq!(token.split('.').count(), 3);
    let short = ask(&cluster, "POST", path, json!({"spec": {"expirationSeconds": 5}}), 422).await;
    assert!(short.message().contains("may not specify a duration less than 10 minutes"));

    let reviews = "/apis/authentication.k8s.io/v1/tokenreviews";
    let review = ask(&cluster, "POST", reviews, json!({"spec": {"token": token}}), 201).await.json();
    assert_eq!(review["status"]["authenticated"], true, "{review}");
    assert_eq!(review["status"]["user"]["username"], "system:serviceaccount:default:default");
    let groups = review["status"]["user"]["groups"].as_array().expect("groups").clone();
    assert!(
        groups.contains(&json!("system:authenticated"))
            && groups.contains(&json!("system:serviceaccounts:default"))
    );
    let other = json!({"spec": {"token": token, "audiences": ["vault"]}});
    let review = ask(&cluster, "POST", reviews, other, 201).await.json();
    assert!(review["status"]["authenticated"].is_null() && review["status"]["error"].is_string(), "{review}");
    let nonsense = ask(&cluster, "POST", reviews, json!({"spec": {"token": "a.b.c"}}), 201).await.json();
    assert!(nonsense["status"]["authenticated"].is_null());

    ask(&cluster, "DELETE", "/api/v1/namespaces/default/serviceaccounts/default", Value::Null, 200).await;
    seen(&cluster, "/api/v1/serviceaccounts").await;
    // verdicts are remembered by token and audiences, so this is a new question
    let audiences =
        json!({"spec": {"token": token, "audiences": ["https://kubernetes.default.svc.cluster.local", "x"]}});
    let review = ask(&cluster, "POST", reviews, audiences, 201).await.json();
    assert_eq!(review["status"]["error"], "serviceaccounts \"default\" not found", "{review}");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rights_are_reviewed_and_not_escalated() {
    let cluster = Cluster::start().await.expect("started");
    let rbac = "/apis/rbac.authorization.k8s.io/v1";
    let ann = UserInfo::new("ann", &["system:authenticated"]);
    let reviews = "/apis/authorization.k8s.io/v1";
    let may = async |resource: &str| {
        let body = json!({"spec": {"resourceAttributes": {"namespace": "default", "verb": "get", "resource": resource}}});
        let answer =
            ask_as(&cluster, &ann, "POST", &format!("{reviews}/selfsubjectaccessreviews"), body).await;
        assert_eq!(answer.code, 201, "{}", answer.text());
        answer.json()["status"]["allowed"].as_bool().expect("told")
    };
    assert!(!may("pods").await);
    let listed = ask_as(&cluster, &ann, "GET", PODS, Value::Null).await;
    assert_eq!(
        listed.message(),
        "pods is forbidden: User \"ann\" cannot list resource \"pods\" in API group \"\" in the namespace \"default\""
    );
    let grant = |name: &str, role: &str, kind: &str| {
        json!({"metadata": {"name": name}, "subjects": [{"kind": "User", "apiGroup": "rbac.authorization.k8s.io", "name": "ann"}],
               "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": role}})
    };
    let local = format!("{rbac}/namespaces/default");
    let manager = json!({"metadata": {"name": "manager"}, "rules": [
        {"apiGroups": ["rbac.authorization.k8s.io"], "resources": ["roles"], "verbs": ["create"]},
        {"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]}]});
    ask(&cluster, "POST", &format!("{local}/roles"), manager, 201).await;
    ask(&cluster, "POST", &format!("{local}/rolebindings"), grant("a", "manager", "Role"), 201).await;
    seen(&cluster, &format!("{local}/roles")).await;
    seen(&cluster, &format!("{local}/rolebindings")).await;
    assert!(may("pods").await && !may("secrets").await);
    for (resource, code) in [("pods", 201), ("secrets", 403)] {
        let role = json!({"metadata": {"name": resource}, "rules": [{"apiGroups": [""], "resources": [resource], "verbs": ["get"]}]});
        let answer = ask_as(&cluster, &ann, "POST", &format!("{local}/roles"), role).await;
        assert_eq!(answer.code, code, "{}", answer.text());
        if code == 403 {
            assert!(answer.message().contains("is attempting to grant RBAC permissions not currently held:\n{APIGroups:[\"\"], Resources:[\"secrets\"], Verbs:[\"get\"]}"));
        }
    }
    let rules = ask_as(
        &cluster,
        &ann,
        "POST",
        &format!("{reviews}/selfsubjectrulesreviews"),
        json!({"spec": {"namespace": "default"}}),
    )
    .await
    .json();
    let has_pods = rules["status"]["resourceRules"]
        .as_array()
        .is_some_and(|r| r.iter().any(|r| r["resources"] == json!(["pods"])));
    assert!(has_pods && rules["status"]["incomplete"] == json!(false), "{rules}");
    let me = ask_as(&cluster, &ann, "POST", "/apis/authentication.k8s.io/v1/selfsubjectreviews", json!({}))
        .await
        .json();
    assert_eq!(me["status"]["userInfo"]["username"], "ann");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn services_get_addresses_and_ports_and_give_them_back() {
    let cluster = Cluster::start().await.expect("started");
    let kubernetes = ask(&cluster, "GET", &format!("{SERVICES}/kubernetes"), Value::Null, 200).await.json();
    assert_eq!(kubernetes["spec"]["clusterIP"], "10.96.0.1");
    let cidr = ask(&cluster, "GET", "/apis/networking.k8s.io/v1/servicecidrs/kubernetes", Value::Null, 200)
        .await
        .json();
    assert_eq!(cidr["status"]["conditions"][0]["type"], "Ready");

    let service = |name: &str, spec: Value| {
        let mut spec = spec;
        spec["ports"] = json!([{"port": 80}]);
        spec["selector"] = json!({"app": "x"});
        json!({"metadata": {"name": name}, "spec": spec})
    };
    let made = ask(&cluster, "POST", SERVICES, service("a", json!({})), 201).await.json();
    let ip = made["spec"]["clusterIP"].as_str().expect("address").to_owned();
    assert!(ip.starts_with("10.96."), "{ip}");
    assert_eq!(made["spec"]["clusterIPs"], json!([ip]));
    assert_eq!(
        (&made["spec"]["ipFamilies"], &made["spec"]["ipFamilyPolicy"]),
        (&json!(["IPv4"]), &json!("SingleStack"))
    );
    let addresses = format!("/apis/networking.k8s.io/v1/ipaddresses/{ip}");
    let address = ask(&cluster, "GET", &addresses, Value::Null, 200).await.json();
    assert_eq!(address["spec"]["parentRef"]["name"], "a");

    let taken = ask(&cluster, "POST", SERVICES, service("b", json!({"clusterIP": ip})), 422).await;
    assert!(
        taken.message().contains(&format!("failed to allocate IP {ip}: provided IP is already allocated")),
        "{}",
        taken.message()
    );
    let outside = ask(&cluster, "POST", SERVICES, service("b", json!({"clusterIP": "10.97.0.1"})), 422).await;
    assert!(outside.message().contains("The range of valid IPs is 10.96.0.0/16"), "{}", outside.message());
    let headless =
        ask(&cluster, "POST", SERVICES, service("h", json!({"clusterIP": "None"})), 201).await.json();
    assert_eq!(headless["spec"]["clusterIPs"], json!(["None"]));
    let dry = ask(
        &cluster,
        "POST",
        &format!("{SERVICES}?dryRun=All"),
        service("d", json!({"clusterIP": "10.96.0.77"})),
        201,
    )
    .await;
    assert_eq!(dry.json()["spec"]["clusterIP"], "10.96.0.77");
    ask(&cluster, "GET", "/apis/networking.k8s.io/v1/ipaddresses/10.96.0.77", Value::Null, 404).await;

    let node_port = json!({"type": "NodePort"});
    let first = ask(&cluster, "POST", SERVICES, service("n", node_port.clone()), 201).await.json();
    let port = first["spec"]["ports"][0]["nodePort"].as_u64().expect("port");
    assert!((30000..=32767).contains(&port));
    let same = json!({"metadata": {"name": "m"}, "spec": {"type": "NodePort", "ports": [{"port": 80, "nodePort": port}]}});
    let refused = ask(&cluster, "POST", SERVICES, same.clone(), 422).await;
    assert!(
        refused.message().contains(&format!(
            "spec.ports[0].nodePort: Invalid value: {port}: provided port is already allocated"
        )),
        "{}",
        refused.message()
    );
    // the refused service's address went back: the list is what is in use
    let listed =
        ask(&cluster, "GET", "/apis/networking.k8s.io/v1/ipaddresses", Value::Null, 200).await.json();
    assert_eq!(listed["items"].as_array().map(Vec::len), Some(3), "{listed}");

    // an update without the allocated fields keeps them; becoming ExternalName gives them back
    let mut plain = service("n", node_port);
    plain["spec"]["selector"] = json!({"app": "y"});
    let kept = ask(&cluster, "PUT", &format!("{SERVICES}/n"), plain, 200).await.json();
    assert_eq!(kept["spec"]["ports"][0]["nodePort"], port);
    assert_eq!(kept["spec"]["clusterIP"], first["spec"]["clusterIP"]);
    let external =
        json!({"metadata": {"name": "n"}, "spec": {"type": "ExternalName", "externalName": "example.com"}});
    let external = ask(&cluster, "PUT", &format!("{SERVICES}/n"), external, 200).await.json();
    assert!(external["spec"].get("clusterIP").is_none(), "{external}");
    ask(&cluster, "POST", SERVICES, same, 201).await;

    ask(&cluster, "DELETE", &format!("{SERVICES}/a"), Value::Null, 200).await;
    ask(&cluster, "GET", &addresses, Value::Null, 404).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn proxies_and_streams_find_their_way() {
    let cluster = with_account().await;
    ask(&cluster, "POST", PODS, pod("p"), 201).await;
    let exec = format!("{PODS}/p/exec?command=ls&stdout=true");
    let refused = ask(&cluster, "POST", &exec, Value::Null, 400).await;
    assert_eq!(refused.message(), "pod p does not have a host assigned");
    // nothing has run, so nothing was said
    ask(&cluster, "GET", &format!("{PODS}/p/log"), Value::Null, 204).await;
    let wrong = ask(&cluster, "GET", &format!("{PODS}/p/log?container=x"), Value::Null, 400).await;
    assert_eq!(wrong.message(), "container x is not valid for pod p");
    ask(&cluster, "GET", &format!("{PODS}/p/log?tailLines=-1"), Value::Null, 422).await;
    ask(&cluster, "GET", &format!("{SERVICES}/kubernetes:https/proxy/x"), Value::Null, 503).await;
    let none = ask(&cluster, "GET", &format!("{SERVICES}/kubernetes:81/proxy/x"), Value::Null, 503).await;
    assert_eq!(none.message(), "no service port 81 found for service \"kubernetes\"");

    // nobody gets at the server's own machine through a node
    let node = json!({"metadata": {"name": "n1"}, "status": {"addresses": [{"type": "Hostname", "address": "localhost"}]}});
    ask(&cluster, "POST", "/api/v1/nodes", node, 201).await;
    let local = ask(&cluster, "GET", "/api/v1/nodes/n1:22/proxy/", Value::Null, 400).await;
    assert_eq!(local.message(), "address not allowed");
    let none = ask(&cluster, "GET", "/api/v1/nodes/gone/proxy/", Value::Null, 404).await;
    assert_eq!(none.message(), "nodes \"gone\" not found");
    cluster.stop().await;
}

fn services(advertise: [u8; 4], reconciles_endpoints: bool) -> registry::Services {
    registry::Services::new(registry::ServiceConfig {
        ranges: vec![ipnet::IpNet::new_assert([10, 96, 0, 0].into(), 16)],
        node_ports: 30000..=32767,
        advertise: Some((advertise.into(), 6443)),
        reconciles_endpoints,
    })
    .expect("configuration")
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_share_the_endpoints_of_kubernetes() {
    let cluster = Cluster::start().await.expect("started");
    let store = cluster.plane().server().store().clone();
    let addresses = async || {
        let path = "/api/v1/namespaces/default/endpoints/kubernetes";
        let endpoints = ask(&cluster, "GET", path, Value::Null, 200).await.json();
        let list = endpoints["subsets"][0]["addresses"].as_array().cloned().unwrap_or_default();
        list.iter().map(|a| a["ip"].as_str().unwrap_or("").to_owned()).collect::<Vec<_>>()
    };
    let [one, two] = [2, 3].map(|host| services([172, 30, 0, host], true));
    one.start(&store).await.expect("started");
    assert_eq!(addresses().await, ["172.30.0.2"]);
    two.start(&store).await.expect("started");
    assert_eq!(addresses().await, ["172.30.0.2", "172.30.0.3"]);
    // one that is told not to be an endpoint is none
    services([172, 30, 0, 4], false).start(&store).await.expect("started");
    assert_eq!(addresses().await, ["172.30.0.2", "172.30.0.3"]);
    let slice = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices/kubernetes";
    let slice = ask(&cluster, "GET", slice, Value::Null, 200).await.json();
    assert_eq!(slice["endpoints"].as_array().map(Vec::len), Some(2));
    // one that ends leaves
    let ended = tokio_util::sync::CancellationToken::new();
    ended.cancel();
    one.run(store, ended).await;
    assert_eq!(addresses().await, ["172.30.0.3"]);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn lost_and_leaked_allocations_are_repaired() {
    let cluster = Cluster::start().await.expect("started");
    let store = cluster.plane().server().store().clone();
    let service = |name: &str, port: Value| json!({"metadata": {"name": name}, "spec": {"type": "NodePort", "ports": [port]}});
    let made = ask(&cluster, "POST", SERVICES, service("a", json!({"port": 80})), 201).await.json();
    let (ip, port) = (made["spec"]["clusterIP"].clone(), made["spec"]["ports"][0]["nodePort"].clone());
    let address = format!("/apis/networking.k8s.io/v1/ipaddresses/{}", ip.as_str().expect("address"));
    // somebody deletes the address, and the ports are forgotten (or were written by a server we cannot read)
    ask(&cluster, "DELETE", &address, Value::Null, 200).await;
    let forget = storage::Op::Put {
        key: "/registry/ranges/servicenodeports".into(),
        value: "k8s\0?".into(),
        lease: None,
    };
    store.storage().txn(Vec::new(), vec![forget]).await.expect("written");
    let busy = ask(&cluster, "POST", SERVICES, service("b", json!({"port": 80})), 500).await;
    assert!(busy.message().contains("failed to allocate a nodePort"), "{}", busy.message());
    services([172, 30, 0, 2], true).start(&store).await.expect("repaired");
    let back = ask(&cluster, "GET", &address, Value::Null, 200).await.json();
    assert_eq!(back["spec"]["parentRef"]["name"], "a");
    let taken =
        ask(&cluster, "POST", SERVICES, service("b", json!({"port": 80, "nodePort": port})), 422).await;
    assert!(taken.message().contains("provided port is already allocated"), "{}", taken.message());
    cluster.stop().await;
}

/// A kubelet on loopback whose containers have said one word; gives its port.
async fn kubelet(ended: tokio_util::sync::CancellationToken) -> u16 {
    let ca = component::pki::Ca::new("kubelets").expect("ca");
    let pair = ca.issue_server("kubelet", None, &[]).expect("certificate");
    let certificate =
        component::tls::ServerCertificate::fixed(pair.cert.as_bytes(), pair.key.as_bytes()).expect("key");
    let tls = component::tls::server_config(certificate, None).expect("configuration");
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let port = listener.local_addr().expect("address").port();
    let handler = |request: component::http::Request| -> futures::future::BoxFuture<'static, component::http::Response> {
        Box::pin(async move {
            assert_eq!(request.uri().path(), "/containerLogs/default/p/c");
            component::http::Response::new(component::http::full("said"))
        })
    };
    let limits = component::serving::Limits::default();
    tokio::spawn(component::serving::serve(listener, Some(tls), std::sync::Arc::new(handler), limits, ended));
    port
}

#[tokio::test(flavor = "multi_thread")]
async fn logs_come_over_websocket_and_proxies_take_any_method() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let cluster = with_account().await;
    let ended = tokio_util::sync::CancellationToken::new();
    let port = kubelet(ended.clone()).await;
    let node = json!({"metadata": {"name": "n1"}, "status": {"addresses": [{"type": "Hostname", "address": "127.0.0.1"}],
        "daemonEndpoints": {"kubeletEndpoint": {"Port": port}}}});
    ask(&cluster, "POST", "/api/v1/nodes", node, 201).await;
    let mut on_node = pod("p");
    on_node["spec"]["nodeName"] = json!("n1");
    ask(&cluster, "POST", PODS, on_node, 201).await;
    let log = ask(&cluster, "GET", &format!("{PODS}/p/log"), Value::Null, 200).await;
    assert_eq!((log.header("content-type"), log.text().as_str()), ("text/plain", "said"));
    let options = cluster.call("OPTIONS", "/api/v1/nodes/gone/proxy/", "").await.expect("answered");
    assert_eq!((options.code, options.message().as_str()), (404, "nodes \"gone\" not found"));

    // the handler upgrades whatever connection the request came on: here a plain one of this test
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let address = listener.local_addr().expect("address");
    let server = cluster.plane().server().clone();
    let admin = std::sync::Arc::new(UserInfo::new("admin", &["system:masters"]));
    let handler = move |mut request: component::http::Request| -> futures::future::BoxFuture<'static, component::http::Response> {
        request.extensions_mut().insert(apiserver::InProcess(admin.clone()));
        Box::pin(server.clone().respond(request))
    };
    let limits = component::serving::Limits::default();
    tokio::spawn(component::serving::serve(
        listener,
        None,
        std::sync::Arc::new(handler),
        limits,
        ended.clone(),
    ));
    let mut client = tokio::net::TcpStream::connect(address).await.expect("connected");
    let head = format!(
        "GET {PODS}/p/log HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: binary.k8s.io\r\n\r\n"
    );
    client.write_all(head.as_bytes()).await.expect("sent");
    let mut all = Vec::new();
    client.read_to_end(&mut all).await.expect("read");
    let text = String::from_utf8_lossy(&all).to_ascii_lowercase();
    assert!(
        text.starts_with("http/1.1 101") && text.contains("sec-websocket-protocol: binary.k8s.io"),
        "{text}"
    );
    // an empty binary message, what the pod has said, then the close frame
    assert!(all.ends_with(b"\x82\x00\x82\x04said\x88\x02\x03\xe8"), "{all:?}");
    ended.cancel();
    cluster.stop().await;
}
