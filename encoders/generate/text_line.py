"""Cuts PP-OCRv6's small recogniser before its head, for inputs of one size.

    pip download rapidocr==3.10.0 --no-deps && unzip rapidocr-3.10.0-py3-none-any.whl
    pip install onnx==1.23.2
    python text_line.py rapidocr/models/PP-OCRv6_rec_small.onnx text_line.onnx

What Paddle's exporter wrote out in small steps is put together again (biases of convolutions, GELU, layer norms), without which a pass is five
times as slow: broadcasting is what backends do worst. Weights keep their names.
"""

import sys

import numpy as np
import onnx
from onnx import helper, numpy_helper, shape_inference, utils, version_converter

FEATURES = "p2o.pd_op.transpose.8.0"


def cut(source, target):
    model = onnx.load(source)
    del model.metadata_props[:]
    for dim, size in zip(model.graph.input[0].type.tensor_type.shape.dim, (1, 3, 48, 320)):
        dim.Clear()
        dim.dim_value = size
    model = shape_inference.infer_shapes(version_converter.convert_version(model, 20))
    onnx.save(model, target)
    utils.extract_model(target, target, ["x"], [FEATURES], check_model=False)
    model = onnx.load(target)
    graph = Graph(model.graph)
    graph.drop_identities()
    graph.fuse_biases()
    graph.fuse_gelu()
    graph.fuse_layer_norms()
    # A name ends at its first dot.
    graph.rename(FEATURES, "features")
    model.graph.output[0].name = "features"
    del model.graph.value_info[:]
    onnx.save(model, target)


class Graph:
    def __init__(self, graph):
        self.graph = graph

    def constants(self):
        found = {i.name: numpy_helper.to_array(i) for i in self.graph.initializer}
        for node in self.graph.node:
            if node.op_type == "Constant":
                found[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
        return found

    def rename(self, old, new):
        for node in self.graph.node:
            for names in (node.input, node.output):
                names[:] = [new if name == old else name for name in names]

    def makers(self):
        return {name: node for node in self.graph.node for name in node.output}

    def readers(self, name):
        return [node for node in self.graph.node if name in node.input]

    def replace(self, old, new):
        """`new` in place of the node that makes `old`; nodes that nobody reads go."""
        at = next(i for i, node in enumerate(self.graph.node) if old in node.output)
        del self.graph.node[at]
        self.graph.node.insert(at, new)
        while True:
            read = {name for node in self.graph.node for name in node.input}
            read |= {output.name for output in self.graph.output}
            dead = [node for node in self.graph.node if not read & set(node.output)]
            if not dead:
                return
            for node in dead:
                self.graph.node.remove(node)

    def drop_identities(self):
        constants = self.constants()
        for node in [n for n in self.graph.node if n.op_type == "Identity"]:
            source, name = node.input[0], node.output[0]
            if source in constants or name == FEATURES:
                continue
            self.graph.node.remove(node)
            for reader in self.readers(name):
                reader.input[:] = [source if i == name else i for i in reader.input]

    def fuse_biases(self):
        """Conv, then Add of a constant [1, C, 1, 1]: Conv with a bias."""
        constants = self.constants()
        for add in [n for n in self.graph.node if n.op_type == "Add"]:
            conv = self.makers().get(add.input[0])
            bias = constants.get(add.input[1])
            if conv is None or conv.op_type != "Conv" or bias is None or len(conv.input) > 2:
                continue
            assert bias.shape == (1, bias.size, 1, 1) and len(self.readers(conv.output[0])) == 1
            name = add.input[1]
            for i, node in enumerate(self.graph.node):
                if node.output[0] == name:
                    del self.graph.node[i]
                    break
            for i, tensor in enumerate(self.graph.initializer):
                if tensor.name == name:
                    del self.graph.initializer[i]
                    break
            self.graph.initializer.append(numpy_helper.from_array(bias.reshape(-1), name))
            fused = helper.make_node("Conv", [*conv.input, name], [add.output[0]])
            fused.attribute.extend(conv.attribute)
            self.replace(add.output[0], fused)

    def fuse_gelu(self):
        """x / sqrt(2), Erf, + 1, x * that, * 0.5"""
        for erf in [n for n in self.graph.node if n.op_type == "Erf"]:
            div = self.makers()[erf.input[0]]
            (add,) = self.readers(erf.output[0])
            (mul,) = self.readers(add.output[0])
            (half,) = self.readers(mul.output[0])
            constants = self.constants()
            values = [constants[n.input[1]].item() for n in (div, add, half)]
            assert np.allclose(values, [2**0.5, 1, 0.5]) and mul.input[0] == div.input[0]
            self.replace(half.output[0], helper.make_node("Gelu", [div.input[0]], [half.output[0]]))

    def fuse_layer_norms(self):
        """mean, x - mean, ^2, mean, + e, sqrt, (x - mean) / that, * w, + b"""
        for pow in [n for n in self.graph.node if n.op_type == "Pow"]:
            sub = self.makers()[pow.input[0]]
            (mean,) = self.readers(pow.output[0])
            (plus,) = self.readers(mean.output[0])
            (root,) = self.readers(plus.output[0])
            (div,) = self.readers(root.output[0])
            (mul,) = self.readers(div.output[0])
            (add,) = self.readers(mul.output[0])
            kinds = [n.op_type for n in (sub, mean, plus, root, div, mul, add)]
            assert kinds == ["Sub", "ReduceMean", "Add", "Sqrt", "Div", "Mul", "Add"]
            epsilon = self.constants()[plus.input[1]].item()
            norm = helper.make_node(
                "LayerNormalization",
                [sub.input[0], mul.input[1], add.input[1]],
                [add.output[0]],
                axis=-1,
                epsilon=epsilon,
            )
            self.replace(add.output[0], norm)


if __name__ == "__main__":
    cut(*sys.argv[1:])
