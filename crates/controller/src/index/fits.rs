use std::fmt;
use std::marker::PhantomData;

use serde::de::value::{Error, MapAccessDeserializer, SeqAccessDeserializer};
use serde::de::{IgnoredAny, IntoDeserializer, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

/// Something that is read if it is what it should be, and is otherwise as good as not there: objects that were stored by another version must not hide
/// the others of their list.
///
/// This holds where all within it is read in the same way, and structures have a default for all their fields. Nothing is read twice or kept meanwhile.
#[derive(Clone, Debug)]
pub struct Fits<T>(pub Option<T>);

impl<T> Default for Fits<T> {
    fn default() -> Fits<T> {
        Fits(None)
    }
}

impl<T> Fits<Vec<Fits<T>>> {
    /// Those of a list that fit.
    pub fn each(&self) -> impl Iterator<Item = &T> {
        self.0.iter().flatten().filter_map(|one| one.0.as_ref())
    }
}

impl Fits<String> {
    /// The text, if there is one.
    pub fn text(&self) -> Option<&str> {
        self.0.as_deref()
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Fits<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Fits<T>, D::Error> {
        deserializer.deserialize_any(Anything(PhantomData))
    }
}

struct Anything<T>(PhantomData<T>);

fn fits<'de, T: Deserialize<'de>>(value: impl IntoDeserializer<'de, Error>) -> Fits<T> {
    Fits(T::deserialize(value.into_deserializer()).ok())
}

impl<'de, T: Deserialize<'de>> Visitor<'de> for Anything<T> {
    type Value = Fits<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("anything")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Fits<T>, E> {
        Ok(fits(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Fits<T>, E> {
        Ok(fits(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Fits<T>, E> {
        Ok(fits(value))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Fits<T>, E> {
        Ok(fits(value))
    }

    fn visit_str<E>(self, value: &str) -> Result<Fits<T>, E> {
        Ok(fits(value))
    }

    fn visit_unit<E>(self) -> Result<Fits<T>, E> {
        Ok(Fits(None))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Fits<T>, A::Error> {
        let fits = T::deserialize(SeqAccessDeserializer::new(&mut list)).ok();
        while list.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Fits(fits))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fits<T>, A::Error> {
        let fits = T::deserialize(MapAccessDeserializer::new(&mut map)).ok();
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Fits(fits))
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    #[derive(Debug, Default, Deserialize)]
    #[serde(default)]
    struct Whole {
        list: Fits<Vec<Fits<Whole>>>,
        text: Fits<String>,
        number: Fits<u32>,
        holds: Fits<bool>,
    }

    /// Anything, of which much is nearly right.
    fn anything() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            "[a-z\"\\\\é]{0,3}".prop_map(Value::from),
        ];
        leaf.prop_recursive(5, 40, 5, |inner| {
            let key = prop::sample::select(vec!["list", "text", "number", "holds", "other"]);
            let map = prop::collection::btree_map(key.prop_map(str::to_owned), inner.clone(), 0..5);
            prop_oneof![
                vec(inner, 0..5).prop_map(Value::from),
                map.prop_map(|map| Value::Object(map.into_iter().collect()))
            ]
        })
    }

    fn is_as_it_should(read: &Fits<Whole>, there: &Value) -> bool {
        // A structure is read from a list of its fields, too.
        if there.is_array() {
            return true;
        }
        let (Some(read), Some(there)) = (&read.0, there.as_object()) else {
            return read.0.is_none() && !there.is_object();
        };
        let at = |name: &str| there.get(name).cloned().unwrap_or_default();
        let number = at("number").as_u64().and_then(|number| u32::try_from(number).ok());
        let list = match (&read.list.0, at("list")) {
            (Some(read), Value::Array(there)) => {
                read.len() == there.len() && read.iter().zip(&there).all(|(read, there)| is_as_it_should(read, there))
            }
            (read, there) => read.is_none() && !there.is_array(),
        };
        list && read.text.text() == at("text").as_str()
            && read.holds.0 == at("holds").as_bool()
            && read.number.0 == number
    }

    proptest! {
        #[test]
        fn what_fits_is_read_and_all_else_passed_over(there in anything()) {
            let all = json!([there, {"text": "after"}]);
            for read in [serde_json::from_str(&all.to_string()), serde_json::from_value::<Vec<Fits<Whole>>>(all.clone())] {
                let read = read.unwrap();
                prop_assert!(is_as_it_should(&read[0], &there), "{read:?}");
                prop_assert_eq!(read[1].0.as_ref().and_then(|one| one.text.text()), Some("after"));
            }
        }
    }

    #[test]
    fn what_breaks_off_is_an_error() {
        for text in ["{\"list\": [{\"text\": \"a\"", "{\"text\": [1,", "{\"text\" 1}"] {
            assert!(serde_json::from_str::<Fits<Whole>>(text).is_err(), "{text}");
        }
    }
}
