//! Pods, nodes, and where the pods go.

use rand::SeedableRng;
use rand::rngs::SmallRng;
use serde_json::json;

use super::{FitError, schedule};
use crate::nominated::Nominated;
use crate::testing::{NodeBuilder, PodBuilder, framework, node, pod, snapshot};

fn place(waiting: PodBuilder, nodes: Vec<NodeBuilder>, running: Vec<PodBuilder>) -> Result<String, FitError> {
    let snapshot = snapshot(nodes, running);
    let mut random = SmallRng::seed_from_u64(1);
    let nobody = Nominated::default();
    schedule(&framework(), &waiting.build(), &snapshot, &nobody, &mut 0, &mut random)
        .map(|choice| choice.node)
}

fn why(waiting: PodBuilder, nodes: Vec<NodeBuilder>, running: Vec<PodBuilder>) -> String {
    place(waiting, nodes, running).expect_err("fits nowhere").message()
}

fn zone(name: &str, zone: &str) -> NodeBuilder {
    node(name).label("zone", zone)
}

fn required(kind: &str, key: &str, value: &str) -> serde_json::Value {
    json!({kind: {"requiredDuringSchedulingIgnoredDuringExecution": [
        {"labelSelector": {"matchLabels": {key: value}}, "topologyKey": "zone"}]}})
}

#[test]
fn messages_are_upstreams() {
    let full =
        || vec![node("n1").allocatable("1", "1Gi", "110"), node("n2").taint("dedicated", "db", "NoSchedule")];
    assert_eq!(
        why(pod("a").requests("2", "1Gi"), full(), vec![]),
        "0/2 nodes are available: 1 Insufficient cpu, 1 node(s) had untolerated taint(s)."
    );
    assert_eq!(why(pod("a"), vec![], vec![]), "no nodes available to schedule pods");
    assert_eq!(
        why(pod("a").requests("2", "9Gi"), vec![node("n1").allocatable("1", "1Gi", "0")], vec![]),
        "0/1 nodes are available: 1 Insufficient cpu, 1 Insufficient memory, 1 Too many pods."
    );
    assert_eq!(
        why(pod("a"), vec![node("n1").spec("unschedulable", json!(true))], vec![]),
        "0/1 nodes are available: 1 node(s) were unschedulable."
    );
}

#[test]
fn filters() {
    let selector = |value: &str| json!({"disk": value});
    let affinity = |operator: &str, values: serde_json::Value| {
        json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
            {"matchExpressions": [{"key": "disk", "operator": operator, "values": values}]}]}}})
    };
    let tolerate = json!([{"key": "dedicated", "operator": "Exists"}]);
    let two = || vec![node("n1").label("disk", "ssd"), node("n2").label("disk", "hdd")];
    let cases = [
        ("node selector", pod("a").spec("nodeSelector", selector("hdd")), two(), vec![], Some("n2")),
        ("affinity In", pod("a").spec("affinity", affinity("In", json!(["ssd"]))), two(), vec![], Some("n1")),
        (
            "affinity NotIn",
            pod("a").spec("affinity", affinity("NotIn", json!(["ssd"]))),
            two(),
            vec![],
            Some("n2"),
        ),
        ("no such label", pod("a").spec("nodeSelector", selector("tape")), two(), vec![], None),
        (
            "tolerated taint",
            pod("a").spec("tolerations", tolerate),
            vec![node("n1").taint("dedicated", "x", "NoSchedule")],
            vec![],
            Some("n1"),
        ),
        (
            "host port taken",
            pod("a").host_port(80),
            vec![node("n1"), node("n2")],
            vec![pod("b").on("n1").host_port(80)],
            Some("n2"),
        ),
        (
            "affinity to a pod in a zone",
            pod("a").spec("affinity", required("podAffinity", "app", "db")),
            vec![zone("n1", "x"), zone("n2", "y")],
            vec![pod("db").label("app", "db").on("n2")],
            Some("n2"),
        ),
        (
            "anti-affinity to a pod in a zone",
            pod("a").spec("affinity", required("podAntiAffinity", "app", "db")),
            vec![zone("n1", "x"), zone("n2", "y")],
            vec![pod("db").label("app", "db").on("n2")],
            Some("n1"),
        ),
        (
            "anti-affinity of a running pod",
            pod("a").label("app", "web"),
            vec![zone("n1", "x"), zone("n2", "y")],
            vec![pod("lonely").on("n1").spec("affinity", required("podAntiAffinity", "app", "web"))],
            Some("n2"),
        ),
        (
            "the first of a group",
            pod("a").label("app", "db").spec("affinity", required("podAffinity", "app", "db")),
            vec![zone("n1", "x")],
            vec![],
            Some("n1"),
        ),
        (
            "affinity to nobody",
            pod("a").spec("affinity", required("podAffinity", "app", "db")),
            vec![zone("n1", "x")],
            vec![],
            None,
        ),
        (
            "spread",
            pod("a").label("app", "web").spec(
                "topologySpreadConstraints",
                json!([{"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule",
                        "labelSelector": {"matchLabels": {"app": "web"}}}]),
            ),
            vec![zone("n1", "x"), zone("n2", "y")],
            vec![pod("b").label("app", "web").on("n1")],
            Some("n2"),
        ),
    ];
    for (what, waiting, nodes, running, expected) in cases {
        assert_eq!(place(waiting, nodes, running).ok().as_deref(), expected, "{what}");
    }
}

#[test]
fn scores() {
    let prefer = json!({"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [
        {"weight": 50, "preference": {"matchExpressions": [{"key": "disk", "operator": "Exists"}]}}]}});
    let cases = [
        (
            "the emptier node",
            pod("a").requests("1", "1Gi"),
            vec![node("n1"), node("n2")],
            vec![pod("b").requests("2", "2Gi").on("n1")],
            "n2",
        ),
        (
            "preferred label",
            pod("a").spec("affinity", prefer),
            vec![node("n1"), node("n2").label("disk", "x")],
            vec![],
            "n2",
        ),
        (
            "taint to avoid",
            pod("a"),
            vec![node("n1").taint("k", "v", "PreferNoSchedule"), node("n2")],
            vec![],
            "n2",
        ),
        (
            "image there already",
            pod("a"),
            vec![node("n1"), node("n2").image("image:latest", 900 << 20)],
            vec![],
            "n2",
        ),
    ];
    for (what, waiting, nodes, running, expected) in cases {
        assert_eq!(place(waiting, nodes, running).expect(what), expected, "{what}");
    }
}

#[test]
fn large_clusters_are_searched_in_turns() {
    let nodes = (0..200).map(|i| node(&format!("n{i}"))).collect();
    let snapshot = snapshot(nodes, vec![]);
    let mut random = SmallRng::seed_from_u64(1);
    let (mut start, nobody) = (0, Nominated::default());
    schedule(&framework(), &pod("a").build(), &snapshot, &nobody, &mut start, &mut random).expect("fits");
    assert_eq!(start, 100, "half of 200 would be 98: never fewer than 100 are looked at");
    schedule(&framework(), &pod("a").build(), &snapshot, &nobody, &mut start, &mut random).expect("fits");
    assert_eq!(start, 0);
}

#[test]
fn room_made_for_one_pod_is_not_for_lesser_ones() {
    let snapshot = snapshot(vec![node("n1").allocatable("1", "8Gi", "110")], vec![]);
    let mut nominated = Nominated::default();
    let promised = pod("high").priority(10).requests("1", "0").status("nominatedNodeName", json!("n1"));
    let promised = std::sync::Arc::new(promised.build());
    nominated.put(promised.clone(), "n1");
    let run = |pod: &crate::pod::PodInfo| {
        let mut random = SmallRng::seed_from_u64(1);
        schedule(&framework(), pod, &snapshot, &nominated, &mut 0, &mut random).map(|choice| choice.node)
    };
    let low = pod("low").requests("1", "0").build();
    assert_eq!(run(&low).expect_err("taken").message(), "0/1 nodes are available: 1 Insufficient cpu.");
    assert_eq!(run(&promised).expect("its own"), "n1");
}

#[test]
fn pods_of_a_service_spread_over_hosts_by_default() {
    let web = |name: &str| pod(name).label("app", "web");
    let mut snapshot = snapshot(vec![node("n1"), node("n2")], vec![web("b").on("n1"), web("c").on("n1")]);
    let mut random = SmallRng::seed_from_u64(1);
    let nobody = Nominated::default();
    let selector = crate::pod::Labels::from([("app".to_owned(), "web".to_owned())]);
    std::sync::Arc::make_mut(&mut snapshot.workloads).set_service("default", "web", Some(selector));
    for _ in 0..10 {
        let choice = schedule(&framework(), &web("a").build(), &snapshot, &nobody, &mut 0, &mut random);
        assert_eq!(choice.expect("fits").node, "n2");
    }
}
