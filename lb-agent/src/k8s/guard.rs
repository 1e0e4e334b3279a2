//! An object, or why it is none: one that does not have its kind's form must not stop a list.
//!
//! kube has such a guard, but its error does not name the field.

use std::borrow::Cow;

use kube::{Resource, core::ObjectMeta};
use serde::{Deserialize, Deserializer, de::DeserializeOwned};
use serde_json::Value;

/// An object as it came.
#[derive(Clone, Debug)]
pub(super) struct Guarded<K>(pub(super) Result<K, Malformed>);

/// What is left of an object that cannot be read.
#[derive(Clone, Debug)]
pub(super) struct Malformed {
    /// Name, namespace and version at least, where it has them.
    pub(super) meta: ObjectMeta,
    /// Field and problem.
    pub(super) reason: String,
}

impl<'de, K: DeserializeOwned> Deserialize<'de> for Guarded<K> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = Value::deserialize(deserializer)?;
        let object = serde_path_to_error::deserialize(&value);
        Ok(Self(object.map_err(|error| Malformed {
            reason: format!(
                "{}: {}; correct it, or delete the object",
                error.path(),
                error.inner()
            ),
            meta: meta(&value["metadata"]),
        })))
    }
}

fn meta(value: &Value) -> ObjectMeta {
    let text = |field: &str| value[field].as_str().map(str::to_owned);
    ObjectMeta::deserialize(value).unwrap_or_else(|_| ObjectMeta {
        name: text("name"),
        namespace: text("namespace"),
        resource_version: text("resourceVersion"),
        ..ObjectMeta::default()
    })
}

impl<K: Resource> Resource for Guarded<K> {
    type DynamicType = K::DynamicType;
    type Scope = K::Scope;

    fn kind(kind: &Self::DynamicType) -> Cow<'_, str> {
        K::kind(kind)
    }

    fn group(kind: &Self::DynamicType) -> Cow<'_, str> {
        K::group(kind)
    }

    fn version(kind: &Self::DynamicType) -> Cow<'_, str> {
        K::version(kind)
    }

    fn plural(kind: &Self::DynamicType) -> Cow<'_, str> {
        K::plural(kind)
    }

    fn meta(&self) -> &ObjectMeta {
        match &self.0 {
            Ok(object) => object.meta(),
            Err(malformed) => &malformed.meta,
        }
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        match &mut self.0 {
            Ok(object) => object.meta_mut(),
            Err(malformed) => &mut malformed.meta,
        }
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Service;
    use serde_json::json;

    use super::*;

    fn malformed(fields: Value) -> Malformed {
        let mut value = json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {"namespace": "shop", "name": "web", "resourceVersion": "7"},
        });
        for (name, field) in fields.as_object().expect("fields") {
            value[name] = field.clone();
        }
        let guarded: Guarded<Service> = serde_json::from_value(value).expect("never fails");
        guarded.0.expect_err("it is malformed")
    }

    #[test]
    fn the_field_is_named() {
        let found = malformed(json!({"spec": {"ports": [{"port": 80}, {"port": "http"}]}}));
        let expected = "spec.ports[1].port: invalid type: string \"http\", expected i32; correct it, or \
                        delete the object";
        assert_eq!(found.reason, expected);
        assert_eq!(found.meta.name.as_deref(), Some("web"));
    }

    #[test]
    fn an_object_with_bad_metadata_keeps_its_name() {
        let meta = json!({"namespace": "shop", "name": "web", "resourceVersion": "7", "labels": 1});
        let found = malformed(json!({"metadata": meta}));
        assert_eq!(found.meta.namespace.as_deref(), Some("shop"));
        assert_eq!(found.meta.resource_version.as_deref(), Some("7"));
    }
}
