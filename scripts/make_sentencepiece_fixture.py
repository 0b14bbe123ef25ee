"""A small SentencePiece model and its ids: tests/fixtures/sentencepiece.json.

    pip install sentencepiece
    python3 scripts/make_sentencepiece_fixture.py

The model is of Llama 2's kind: BPE with bytes for what is no piece, nothing normalised but a space put in front. It is trained on the glossary.
"""

import io
import json
import pathlib

import sentencepiece

ROOT = pathlib.Path(__file__).resolve().parent.parent
TEXTS = [
    "the message of an agent", "  two spaces  and three   more ", "x", " x", "", "Agents, tokens; 12345 (67)", "tab\tand\nline\n\n", "é 日本 😀 e\u0301",
    "the the thethe", "KeyValues[3] += trace", "mes sage", "reads", "'quoted' \"text\"",
]


def main():
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter((ROOT / "docs/glossary.md").read_text().splitlines()), model_writer=model, model_type="bpe", vocab_size=420,
        byte_fallback=True, character_coverage=0.98, normalization_rule_name="identity", remove_extra_whitespaces=False, minloglevel=2,
    )
    sp = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    kinds = [2 if sp.is_unknown(i) else 3 if sp.is_control(i) else 6 if sp.is_byte(i) else 1 for i in range(len(sp))]
    fixture = dict(
        tokens=[sp.id_to_piece(i) for i in range(len(sp))], scores=[sp.get_score(i) for i in range(len(sp))], token_type=kinds,
        texts=[[text, sp.encode(text)] for text in TEXTS],
    )
    path = ROOT / "tests/fixtures/sentencepiece.json"
    path.write_text(json.dumps(fixture, ensure_ascii=False, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
