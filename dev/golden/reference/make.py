"""Makes `dev/golden/tiny/*.json`: tiny random models as transformers computes them.

    python3 -m venv /tmp/reference && /tmp/reference/bin/pip install torch transformers
    /tmp/reference/bin/python dev/golden/reference/make.py [NAME]...

Weights are a function of the tensor's name and the element's index (`values`; the same function is in
`dev/golden/src/tiny/values.rs`), and 16-bit floats hold every one of them exactly, so that a checkpoint in any float
format is the same model. Names and shapes are those that transformers gives its own modules.
"""

import json
import pathlib
import sys

import numpy
import torch
import transformers

OUTPUT = pathlib.Path(__file__).parent.parent / "tiny"
GENERATED = 24
# Below this the most likely token would hang on rounding, which another order of additions changes.
MARGIN_MIN = 0.01

COMMON = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 160,
    "vocab_size": 317,
    "max_position_embeddings": 256,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "hidden_act": "silu",
    "tie_word_embeddings": False,
}

# Prompts are long enough to leave the window, and the positions of the first training where frequencies are scaled.
CASES = {
    "llama": {"architectures": ["LlamaForCausalLM"], "model_type": "llama"},
    "llama_llama3": {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "tie_word_embeddings": True,
        "rope_theta": 500000.0,
        "rope_scaling": {
            "rope_type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 32,
        },
    },
    "llama_linear": {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "rope_scaling": {"type": "linear", "factor": 4.0},
        "num_key_value_heads": 4,
    },
    "llama_yarn": {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "attention_bias": True,
        "num_key_value_heads": 1,
        "rope_scaling": {
            "rope_type": "yarn",
            "factor": 4.0,
            "original_max_position_embeddings": 64,
        },
    },
    "mistral": {
        "architectures": ["MistralForCausalLM"],
        "model_type": "mistral",
        "sliding_window": 20,
        "rope_theta": None,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1000000.0},
    },
    "qwen2": {
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        "tie_word_embeddings": True,
        "use_sliding_window": False,
        "sliding_window": 16,
        "max_window_layers": 1,
        "rms_norm_eps": 1e-6,
    },
    "qwen2_windows": {
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        "num_hidden_layers": 4,
        "use_sliding_window": True,
        "sliding_window": 20,
        "layer_types": ["sliding_attention", "full_attention"] * 2,
        "rms_norm_eps": 1e-6,
    },
    "qwen3": {
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        "head_dim": 32,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1000000.0,
    },
}


def mix(state):
    """The output function of SplitMix64, on an array."""
    state = (state ^ (state >> numpy.uint64(30))) * numpy.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> numpy.uint64(27))) * numpy.uint64(0x94D049BB133111EB)
    return state ^ (state >> numpy.uint64(31))


def values(name, shape):
    """The elements of a tensor."""
    key = 0xCBF29CE484222325
    for byte in name.encode():
        key = (key ^ byte) * 0x100000001B3 % 2**64
    count = int(numpy.prod(shape))
    with numpy.errstate(over="ignore"):
        index = numpy.arange(1, count + 1, dtype=numpy.uint64)
        mixed = mix(numpy.uint64(key) + index * numpy.uint64(0x9E3779B97F4A7C15))
    if name.endswith("norm.weight"):
        # From 3/4 to 5/4.
        elements = 1.0 + ((mixed >> numpy.uint64(58)).astype(numpy.float64) - 32) / 128
    else:
        # From -1/4 to 1/4.
        elements = ((mixed >> numpy.uint64(56)).astype(numpy.float64) - 128) / 512
    return torch.tensor(elements.astype(numpy.float32)).reshape(shape)


def prompt(name, vocab_size, count=48):
    with numpy.errstate(over="ignore"):
        key = numpy.uint64(sum(name.encode()))
        mixed = mix(key + numpy.arange(1, count + 1, dtype=numpy.uint64) * numpy.uint64(0x9E3779B97F4A7C15))
    return [int(value % numpy.uint64(vocab_size)) for value in mixed]


def load(config):
    kind = getattr(transformers, config["architectures"][0])
    options = {key: value for key, value in config.items() if key != "architectures"}
    options = kind.config_class(**options, attn_implementation="eager")
    model = kind(options).to(torch.float32).eval()
    own = {
        name: values(name, tuple(tensor.shape))
        for name, tensor in model.state_dict().items()
        if not (config["tie_word_embeddings"] and name == "lm_head.weight")
    }
    missing, unexpected = model.load_state_dict(own, strict=False)
    assert not unexpected and set(missing) <= {"lm_head.weight"}, (missing, unexpected)
    model.tie_weights()
    return model


def round_all(tensor):
    return [round(float(value), 5) for value in tensor]


@torch.no_grad()
def compute(config, tokens):
    model = load(config)

    def log_probabilities(tokens):
        # Without a cache: every position from scratch, the plainest way there is.
        logits = model(torch.tensor([tokens]), use_cache=False).logits[0].double()
        return torch.log_softmax(logits, dim=-1)

    of_prompt = log_probabilities(tokens)
    greedy, margins, of_greedy = [], [], []
    for _ in range(GENERATED):
        last = log_probabilities(tokens + greedy)[-1]
        best, second = torch.topk(last, 2).values.tolist()
        greedy.append(int(last.argmax()))
        of_greedy.append(best)
        margins.append(best - second)
    assert min(margins) > MARGIN_MIN, f"choose another prompt: a margin is {min(margins)}"
    return {
        "prompt": tokens,
        "prompt_logprobs": [round(float(of_prompt[i, t]), 5) for i, t in enumerate(tokens[1:])],
        "last_logprobs": round_all(of_prompt[-1]),
        "greedy": greedy,
        "greedy_logprobs": round_all(of_greedy),
    }


def first_clear(name, config):
    """The golden numbers of the first prompt that leaves no token to chance."""
    for attempt in range(50):
        try:
            return compute(config, prompt(f"{name}{attempt}", config["vocab_size"]))
        except AssertionError as error:
            print(f"{name}: {error}")
    raise SystemExit(f"{name}: no prompt will do")


def main():
    versions = f"transformers {transformers.__version__}, torch {torch.__version__}, float32, eager attention"
    for name in sys.argv[1:] or CASES:
        own = CASES[name]
        config = {key: value for key, value in (COMMON | own).items() if value is not None}
        golden = {"made_by": f"dev/golden/reference/make.py with {versions}", "config": config}
        golden |= first_clear(name, config)
        # One field a line.
        fields = ",\n".join(f"{json.dumps(key)}: {json.dumps(value)}" for key, value in golden.items())
        (OUTPUT / f"{name}.json").write_text("{\n" + fields + "\n}\n")
        print(f"{name}: {golden['greedy'][:8]}")


main()
