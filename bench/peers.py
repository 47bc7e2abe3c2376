"""peers.py KEY OUT.json MODEL.gguf...: the measuring half of bench/peers.

The models are m1, m2, ... of modelpoold's.  Both engines get the same random tokens.  A sample of
decode is a prompt of 16 tokens and the 64 tokens behind it, of one stream or of eight at once; a
sample of prefill is the time to the first token of a prompt of 512.  Ours comes over HTTP and is
sampled, greedily; llama.cpp runs in this process and its logits are not even read.  Samples are
taken in turns, and each engine is idle while the other runs.
"""
import os
import sys
import time

import client

ROUNDS = int(os.environ.get("BENCH_ROUNDS", 9))
NEW = 64
LONG = 512
STREAMS = 8
THREADS = 2
LIMIT = 0.9


class LlamaCpp:
    """By its batch API: the sequences of a step are one call of llama_decode."""

    def __init__(self, path):
        import llama_cpp
        self.lib = lib = llama_cpp
        self.quiet = llama_cpp.llama_log_callback(lambda *_: None)
        lib.llama_log_set(self.quiet, None)
        lib.llama_backend_init()
        self.model = lib.llama_model_load_from_file(path.encode(), lib.llama_model_default_params())
        self.batch = lib.llama_batch_init(LONG, 0, 1)
        self.contexts = {n: self.context(n) for n in (1, STREAMS)}
        self.name = f"llama.cpp of llama-cpp-python {llama_cpp.__version__}"
        self.system = lib.llama_print_system_info().decode()

    def context(self, sequences):
        p = self.lib.llama_context_default_params()
        p.n_ctx, p.n_batch, p.n_ubatch, p.n_seq_max = sequences * 1024, LONG, LONG, sequences
        p.n_threads = p.n_threads_batch = THREADS
        return self.lib.llama_init_from_model(self.model, p)

    def step(self, context, rows):
        """rows: token, position, sequence, whether its logits are wanted."""
        self.batch.n_tokens = len(rows)
        for i, (token, position, sequence, wanted) in enumerate(rows):
            self.batch.token[i], self.batch.pos[i] = token, position
            self.batch.n_seq_id[i], self.batch.seq_id[i][0] = 1, sequence
            self.batch.logits[i] = wanted
        assert self.lib.llama_decode(context, self.batch) == 0
        self.lib.llama_synchronize(context)

    def together(self, many, new):
        context = self.contexts[len(many)]
        self.lib.llama_memory_clear(self.lib.llama_get_memory(context), True)
        self.step(context, [(t, i, s, i + 1 == len(p)) for s, p in enumerate(many)
                            for i, t in enumerate(p)])
        for k in range(new - 1):
            self.step(context, [((s + 1) * 100 + k, len(p) + k, s, True)
                                for s, p in enumerate(many)])

    def close(self):
        for context in self.contexts.values():
            self.lib.llama_free(context)
        self.lib.llama_batch_free(self.batch)
        self.lib.llama_model_free(self.model)


def compare(pool, model, path):
    peer = LlamaCpp(path)
    file = os.path.basename(path)
    cases = (("decode, 1 stream", client.prompts(1, 16), NEW, NEW),
             (f"decode, {STREAMS} streams", client.prompts(STREAMS, 17), NEW, STREAMS * NEW),
             (f"prefill, {LONG} tokens", client.prompts(1, LONG), 1, LONG))
    rows = []
    for name, many, new, tokens in cases:
        requests = [(model, p) for p in many]
        pool.together(requests, new)  # warms what there is to warm
        peer.together(many, new)
        ours, theirs = [], []
        for _ in range(ROUNDS):
            time.sleep(0.3)  # until the other's threads have stopped spinning
            ours.append(tokens / client.timed(pool.together, requests, new))
            time.sleep(0.3)
            theirs.append(tokens / client.timed(peer.together, many, new))
        rows.append(client.compared(name, file, LIMIT, ours, theirs))
        print(f"{name}, {file}: {rows[-1]['ratio']:.2f} of the peer's", flush=True)
    peer.close()
    return rows, peer


def main():
    key, out, *paths = sys.argv[1:]
    result = client.about("peers", "bench/peers")
    result["results"] = []
    for i, path in enumerate(paths):
        rows, peer = compare(client.Pool(key), f"m{i + 1}", path)
        result["results"] += rows
        result["peer"], result["peer_system"] = peer.name, peer.system
    print(f"peer: {result['peer']}, {result['peer_system']}")
    client.write(out, result)


main()
