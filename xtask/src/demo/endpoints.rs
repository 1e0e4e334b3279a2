//! The endpoints in `deploy/demo`, read to make pods of them and changed as a controller would change them.

use std::net::IpAddr;

use anyhow::{Context, Result};
use serde::Deserialize;
use serde_yaml_ng::{Deserializer, Value};

/// An endpoint of one slice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Endpoint {
    /// The pod's name.
    pub(super) pod: String,
    /// The node it runs on.
    pub(super) node: String,
    /// Its one address.
    pub(super) address: IpAddr,
}

/// A file of EndpointSlices.
#[derive(Debug, Clone)]
pub(super) struct Endpoints(Vec<Value>);

impl Endpoints {
    /// Reads the documents of `text`.
    pub(super) fn parse(text: &str) -> Result<Self> {
        let documents = Deserializer::from_str(text).map(Value::deserialize);
        let documents: Result<_, _> = documents.collect();
        Ok(Self(
            documents.context("the endpoints of the demo are no YAML")?,
        ))
    }

    /// The file's text.
    pub(super) fn to_yaml(&self) -> Result<String> {
        let documents: Result<Vec<String>, _> =
            self.0.iter().map(serde_yaml_ng::to_string).collect();
        Ok(documents?.join("---\n"))
    }

    /// All endpoints, slice by slice.
    pub(super) fn list(&self) -> Result<Vec<Endpoint>> {
        let slices = self
            .0
            .iter()
            .filter_map(|slice| slice["endpoints"].as_sequence());
        slices.flatten().map(endpoint).collect()
    }

    /// Adds a pod that serves, in each family's slice.
    pub(super) fn add(&mut self, pod: &str, node: &str, addresses: [IpAddr; 2]) -> Result<()> {
        for slice in &mut self.0 {
            let is_v6 = slice["addressType"] == "IPv6";
            let address = addresses[usize::from(is_v6)];
            let text = format!(
                "addresses: ['{address}']\n\
                 conditions: {{ ready: true, serving: true, terminating: false }}\n\
                 nodeName: {node}\n\
                 targetRef: {{ kind: Pod, namespace: default, name: {pod} }}\n"
            );
            let new = serde_yaml_ng::from_str(&text)?;
            let endpoints = slice["endpoints"].as_sequence_mut();
            endpoints
                .context("a slice of the demo has no endpoints")?
                .push(new);
        }
        Ok(())
    }

    /// Marks a pod as on its way out: still serving whom it serves, for nobody new.
    pub(super) fn drain(&mut self, pod: &str) -> Result<()> {
        let conditions = "{ ready: false, serving: true, terminating: true }";
        let conditions: Value = serde_yaml_ng::from_str(conditions)?;
        for slice in &mut self.0 {
            let endpoints = slice["endpoints"].as_sequence_mut();
            for endpoint in endpoints.into_iter().flatten() {
                if endpoint["targetRef"]["name"] == pod {
                    endpoint["conditions"] = conditions.clone();
                }
            }
        }
        Ok(())
    }

    /// Takes a pod out.
    pub(super) fn remove(&mut self, pod: &str) {
        for slice in &mut self.0 {
            if let Some(endpoints) = slice["endpoints"].as_sequence_mut() {
                endpoints.retain(|endpoint| endpoint["targetRef"]["name"] != pod);
            }
        }
    }
}

fn endpoint(value: &Value) -> Result<Endpoint> {
    let word = |value: &Value, what: &str| {
        let word = value.as_str().map(str::to_owned);
        word.with_context(|| format!("an endpoint of the demo lacks {what}"))
    };
    Ok(Endpoint {
        pod: word(&value["targetRef"]["name"], "targetRef.name")?,
        node: word(&value["nodeName"], "nodeName")?,
        address: word(&value["addresses"][0], "addresses")?.parse()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shipped() -> Endpoints {
        Endpoints::parse(include_str!("../../../deploy/demo/web-endpoints.yaml")).unwrap()
    }

    fn pods(endpoints: &Endpoints) -> Vec<String> {
        let list = endpoints.list().unwrap().into_iter();
        list.map(|endpoint| format!("{} {}", endpoint.pod, endpoint.address))
            .collect()
    }

    #[test]
    fn the_shipped_file_has_three_pods_in_both_families() {
        assert_eq!(
            pods(&shipped()),
            [
                "web-0 10.244.1.2",
                "web-1 10.244.2.1",
                "web-2 10.244.2.2",
                "web-0 fd00:244:1::2",
                "web-1 fd00:244:2::1",
                "web-2 fd00:244:2::2",
            ]
        );
    }

    #[test]
    fn a_changed_file_reads_as_it_was_changed() {
        let mut endpoints = shipped();
        let addresses = [
            "10.244.2.3".parse().unwrap(),
            "fd00:244:2::3".parse().unwrap(),
        ];
        endpoints.add("web-3", "node-b", addresses).unwrap();
        endpoints.remove("web-0");
        endpoints.remove("web-1");
        let read = Endpoints::parse(&endpoints.to_yaml().unwrap()).unwrap();
        assert_eq!(
            pods(&read),
            [
                "web-2 10.244.2.2",
                "web-3 10.244.2.3",
                "web-2 fd00:244:2::2",
                "web-3 fd00:244:2::3",
            ]
        );
    }

    #[test]
    fn a_drained_pod_serves_and_is_terminating() {
        let mut endpoints = shipped();
        endpoints.drain("web-1").unwrap();
        for slice in &endpoints.0 {
            assert_eq!(slice["endpoints"][1]["conditions"]["terminating"], true);
            assert_eq!(slice["endpoints"][1]["conditions"]["ready"], false);
            assert_eq!(slice["endpoints"][0]["conditions"]["ready"], true);
        }
    }
}
