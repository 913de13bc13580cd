// What the kernels of sampling share: how a row's token is drawn, and where everything is.

struct SampleRow {
    u64 seed;
    u64 position;
    float scale;        // 1 / temperature; 0 draws the most likely token
    float top_p;        // 1 keeps all
    float min_p;        // 0 keeps all
    int top_k;          // 0 keeps all
    float repetition;   // divides positive logits and multiplies negative ones of tokens seen; 1 does nothing
    float presence;     // subtracted from logits of tokens of the output
    float frequency;    // the same, once for each time
    int logprobs;       // so many alternatives are reported; -1 reports nothing
    int bias_first;     // among all biases
    int bias_count;     // added to logits, before penalties
    int ban_count;      // after those biases: tokens that are not drawn
    int slot;
};

struct TokenBias { int token; float bias; };

// Most alternatives that are reported.
#define LOGPROBS_MAX 20

struct Report {
    float logprob;   // of the token drawn; before it is drawn, the logarithm of the sum of all exponentials
    struct { int token; float logprob; } top[LOGPROBS_MAX];
};

struct SampleArguments {
    float* logits;           // [rows][vocabulary]
    const SampleRow* rows;   // [rows]
    const TokenBias* biases; // of all rows; each token at most once a row
    u32* counts;             // [slots][vocabulary]: how often in the output; the highest bit: in the prompt
    Report* reports;         // [rows]
    int* tokens;             // [rows]: the token drawn, or -1 where a logit is not a finite number
    int* last_tokens;        // [slots]: the same
    int vocabulary;
};

#define IN_PROMPT 0x80000000u

__device__ __forceinline__ bool is_penalised(const SampleRow& row) {
    return row.repetition != 1.0f || row.presence != 0.0f || row.frequency != 0.0f;
}

// A logit after penalties, and before them again.
__device__ __forceinline__ float with_penalties(float logit, const SampleRow& row, u32 count) {
    if (count == 0) return logit;
    logit = logit > 0.0f ? logit / row.repetition : logit * row.repetition;
    const u32 outputs = count & ~IN_PROMPT;
    return outputs ? logit - (row.frequency * float(outputs) + row.presence) : logit;
}
__device__ __forceinline__ float without_penalties(float logit, const SampleRow& row, u32 count) {
    if (count == 0) return logit;
    const u32 outputs = count & ~IN_PROMPT;
    if (outputs) logit += row.frequency * float(outputs) + row.presence;
    return logit > 0.0f ? logit * row.repetition : logit / row.repetition;
}
