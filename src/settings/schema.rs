//! Which settings there are: the fields of the structs that are read from them.

use serde::de::value::Error as Seen;
use serde::de::{DeserializeOwned, Deserializer, Error as _, Visitor};
use serde::forward_to_deserialize_any;
use toml::Spanned;
use toml::de::{DeTable, DeValue, Error, ValueDeserializer};

/// The settings of one struct.
#[derive(Clone, Copy)]
pub struct Section {
    /// Its keys.
    pub keys: &'static [&'static str],
    /// Whether the values of these keys have the types of the struct's fields.
    pub(super) check: fn(Spanned<DeTable<'_>>) -> Result<(), Error>,
}

impl Section {
    /// The settings of `T`, all of which may be absent.
    pub fn of<T: DeserializeOwned>() -> Self {
        Self { keys: keys::<T>(), check: check::<T> }
    }
}

/// The settings of each command, by its name.
pub struct Schema {
    /// Commands and the structs that each of them reads.
    pub commands: Vec<(&'static str, Vec<Section>)>,
}

impl Schema {
    /// Every key that may stand outside a command's table, in the order of the commands.
    pub fn keys(&self) -> Vec<&'static str> {
        let all = self.commands.iter().flat_map(|(_, sections)| sections);
        unique(all.flat_map(|section| section.keys))
    }

    /// The keys of a command's table.
    pub fn keys_of(&self, command: &str) -> Vec<&'static str> {
        unique(self.sections_of(command).iter().flat_map(|section| section.keys))
    }

    pub(super) fn sections_of(&self, command: &str) -> &[Section] {
        self.commands.iter().find(|(name, _)| *name == command).map_or(&[], |(_, sections)| sections)
    }

    pub(super) fn sections(&self) -> impl Iterator<Item = &Section> + Clone {
        self.commands.iter().flat_map(|(_, sections)| sections)
    }
}

fn unique(keys: impl Iterator<Item = &'static &'static str>) -> Vec<&'static str> {
    let mut all = Vec::new();
    for key in keys {
        if !all.contains(key) {
            all.push(*key);
        }
    }
    all
}

fn check<T: DeserializeOwned>(table: Spanned<DeTable<'_>>) -> Result<(), Error> {
    let span = table.span();
    let table = Spanned::new(span, DeValue::Table(table.into_inner()));
    T::deserialize(ValueDeserializer::from(table)).map(drop)
}

/// The names of the fields of `T`, as serde knows them; none where it is no struct.
pub(super) fn keys<T: DeserializeOwned>() -> &'static [&'static str] {
    let mut fields: &'static [&'static str] = &[];
    let _ = T::deserialize(Fields(&mut fields));
    fields
}

/// Writes down the names that a struct asks for, and gives it nothing.
struct Fields<'a>(&'a mut &'static [&'static str]);

impl<'de> Deserializer<'de> for Fields<'_> {
    type Error = Seen;

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Seen> {
        Err(Seen::custom("this is no struct"))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        _: V,
    ) -> Result<V::Value, Seen> {
        *self.0 = fields;
        Err(Seen::custom("only its fields were asked for"))
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct newtype_struct
        seq tuple tuple_struct map enum identifier ignored_any
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    #[derive(Deserialize)]
    #[allow(dead_code)]
    struct Pair {
        #[serde(rename = "first")]
        a: usize,
        b: Option<String>,
    }

    #[test]
    fn keys_are_the_fields_of_the_struct() {
        assert_eq!(keys::<Pair>(), ["first", "b"]);
        assert!(keys::<usize>().is_empty());
        let schema =
            Schema { commands: vec![("x", vec![Section::of::<Pair>()]), ("y", vec![Section::of::<Pair>()])] };
        assert_eq!(schema.keys(), ["first", "b"]);
        assert_eq!(schema.keys_of("y"), ["first", "b"]);
        assert!(schema.keys_of("z").is_empty());
    }
}
