//! What is needed of an ONNX file: its weights by name, and whether its shapes are fixed.

use std::collections::BTreeMap;

use prost::Message;

/// ONNX's number for f32 (`TensorProto.DataType.FLOAT`).
const FLOAT: i32 = 1;

/// A model, as far as it is read here. Fields are numbered as in `onnx.proto3`.
#[derive(Clone, PartialEq, Message)]
pub struct Onnx {
    #[prost(message, optional, tag = "7")]
    graph: Option<Graph>,
}

#[derive(Clone, PartialEq, Message)]
struct Graph {
    #[prost(message, repeated, tag = "1")]
    node: Vec<Node>,
    #[prost(message, repeated, tag = "5")]
    initializer: Vec<Tensor>,
    #[prost(message, repeated, tag = "11")]
    input: Vec<Value>,
    #[prost(message, repeated, tag = "12")]
    output: Vec<Value>,
}

#[derive(Clone, PartialEq, Message)]
struct Node {
    #[prost(string, repeated, tag = "2")]
    output: Vec<String>,
    #[prost(message, repeated, tag = "5")]
    attribute: Vec<Attribute>,
}

#[derive(Clone, PartialEq, Message)]
struct Attribute {
    #[prost(message, optional, tag = "5")]
    t: Option<Tensor>,
}

#[derive(Clone, PartialEq, Message)]
struct Tensor {
    #[prost(int64, repeated, tag = "1")]
    dims: Vec<i64>,
    #[prost(int32, tag = "2")]
    data_type: i32,
    #[prost(float, repeated, tag = "4")]
    float_data: Vec<f32>,
    #[prost(string, tag = "8")]
    name: String,
    #[prost(bytes = "vec", tag = "9")]
    raw_data: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
struct Value {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(message, optional, tag = "2")]
    r#type: Option<Type>,
}

#[derive(Clone, PartialEq, Message)]
struct Type {
    #[prost(message, optional, tag = "1")]
    tensor_type: Option<TensorType>,
}

#[derive(Clone, PartialEq, Message)]
struct TensorType {
    #[prost(message, optional, tag = "2")]
    shape: Option<Shape>,
}

#[derive(Clone, PartialEq, Message)]
struct Shape {
    #[prost(message, repeated, tag = "1")]
    dim: Vec<Dim>,
}

#[derive(Clone, PartialEq, Message)]
struct Dim {
    #[prost(int64, tag = "1")]
    dim_value: i64,
}

/// Numbers of a weight, row-major.
#[derive(Clone, Debug, PartialEq)]
pub struct Weight {
    /// Its sizes.
    pub shape: Vec<usize>,
    /// Its numbers.
    pub values: Vec<f32>,
}

impl Onnx {
    /// Reads the bytes of an ONNX file.
    ///
    /// # Errors
    /// A sentence, if they are none.
    pub fn read(bytes: &[u8]) -> Result<Self, String> {
        let model = Self::decode(bytes).map_err(|e| format!("the ONNX file cannot be read: {e}"))?;
        match &model.graph {
            Some(_) => Ok(model),
            None => Err("the ONNX file holds no graph".into()),
        }
    }

    fn graph(&self) -> impl Iterator<Item = &Graph> {
        self.graph.iter()
    }

    /// The names of outputs.
    pub fn outputs(&self) -> impl Iterator<Item = &str> {
        self.graph().flat_map(|graph| graph.output.iter().map(|value| value.name.as_str()))
    }

    /// Name and sizes of inputs.
    ///
    /// # Errors
    /// A sentence, if a size is not fixed.
    pub fn inputs(&self) -> Result<Vec<(String, Vec<usize>)>, String> {
        let values = self.graph().flat_map(|graph| &graph.input);
        let shape = |value: &Value| {
            let tensor = value.r#type.as_ref().and_then(|t| t.tensor_type.as_ref()?.shape.as_ref());
            let sizes = tensor.map_or(&[][..], |shape| &shape.dim[..]).iter().map(|dim| dim.dim_value);
            let sizes: Vec<usize> = sizes.map(|n| usize::try_from(n).unwrap_or(0)).collect();
            match sizes.is_empty() || sizes.contains(&0) {
                true => {
                    Err(format!("the shape of `{}` is not fixed: {sizes:?}, where 0 is open", value.name))
                }
                false => Ok((value.name.clone(), sizes)),
            }
        };
        values.map(shape).collect()
    }

    /// Every weight of f32 by name: initializers, and what nodes hold as constants.
    ///
    /// # Errors
    /// A sentence, if one has not as many numbers as its sizes say.
    pub fn weights(self) -> Result<BTreeMap<String, Weight>, String> {
        let Some(graph) = self.graph else { return Ok(BTreeMap::new()) };
        let constants = graph.node.into_iter().filter_map(|node| {
            let name = node.output.into_iter().next()?;
            let tensor = node.attribute.into_iter().find_map(|attribute| attribute.t)?;
            Some(Tensor { name, ..tensor })
        });
        let all = graph.initializer.into_iter().chain(constants).filter(|tensor| tensor.data_type == FLOAT);
        let weight = |Tensor { dims, float_data, name, raw_data, .. }: Tensor| {
            let shape: Option<Vec<usize>> = dims.iter().map(|&n| usize::try_from(n).ok()).collect();
            let mut values = float_data;
            let (words, rest) = raw_data.as_chunks::<4>();
            values.extend(words.iter().map(|word| f32::from_le_bytes(*word)));
            let count =
                shape.as_ref().and_then(|s| s.iter().try_fold(1usize, |n, &size| n.checked_mul(size)));
            match (shape, count) {
                (Some(shape), Some(count)) if rest.is_empty() && count == values.len() => {
                    Ok((name, Weight { shape, values }))
                }
                _ => Err(format!("the weight `{name}` is {dims:?}, but holds {} numbers", values.len())),
            }
        };
        all.map(weight).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn model(dims: Vec<i64>, input: i64) -> Onnx {
        let raw_data = [1.0f32, 2.0].iter().flat_map(|x| x.to_le_bytes()).collect();
        let tensor = Tensor { dims, data_type: FLOAT, name: "w".into(), raw_data, ..Tensor::default() };
        let shape = Shape { dim: vec![Dim { dim_value: 1 }, Dim { dim_value: input }] };
        let r#type = Some(Type { tensor_type: Some(TensorType { shape: Some(shape) }) });
        let graph = Graph {
            initializer: vec![tensor],
            input: vec![Value { name: "x".into(), r#type }],
            ..Graph::default()
        };
        Onnx { graph: Some(graph) }
    }

    #[test]
    fn weights_are_read_by_name_and_sizes_must_agree() {
        let read = |dims| Onnx::read(&model(dims, 3).encode_to_vec()).unwrap().weights();
        let weight = Weight { shape: vec![2, 1], values: vec![1.0, 2.0] };
        assert_eq!(read(vec![2, 1]), Ok(BTreeMap::from([("w".to_string(), weight)])));
        for dims in [vec![3], vec![-1, -2], vec![i64::MAX, i64::MAX]] {
            assert!(read(dims).unwrap_err().starts_with("the weight `w` is ["));
        }
    }

    #[test]
    fn shapes_that_are_not_fixed_and_bytes_that_are_no_model_are_refused() {
        assert_eq!(model(vec![2], 3).inputs(), Ok(vec![("x".to_string(), vec![1, 3])]));
        let error = model(vec![2], 0).inputs().unwrap_err();
        assert_eq!(error, "the shape of `x` is not fixed: [1, 0], where 0 is open");
        assert!(Onnx::read(b"GGUF, and not ONNX").is_err());
        assert_eq!(Onnx::read(b"").unwrap_err(), "the ONNX file holds no graph");
    }
}
