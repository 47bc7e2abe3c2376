#include "model/pretokenizer.h"

#include <stdlib.h>
#include <string.h>

#include "model/bytes.h"
#include "model/json_member.h"

#define STEPS_MAX       16
#define DEPTH_MAX       8
#define REPLACEMENT_MAX 16

static const char gpt2_pattern[] =
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";
/* Unicode 17's numbers, where the patterns go by 16. */
static const char number_pattern[] = "[\\p{N}\\x{11de0}-\\x{11de9}\\x{16ff4}-\\x{16ff6}]";

enum step_kind {
    STEP_SPLIT,
    STEP_PREFIX,    /* a space before a piece that has none */
    STEP_METASPACE, /* a space becomes the replacement, which also goes before a piece */
};

enum prepend { PREPEND_NEVER, PREPEND_FIRST, PREPEND_ALWAYS };

struct step {
    enum step_kind kind;
    struct regex *regex; /* of SPLIT; owned */
    enum behavior behavior;
    int invert;
    enum prepend prepend; /* of METASPACE */
    char replacement[REPLACEMENT_MAX];
};

struct pretokenizer {
    struct step steps[STEPS_MAX];
    size_t count;
    int byte_level;
};

/* Creating */

struct pretokenizer *pretokenizer_create(struct error *err)
{
    struct pretokenizer *p = calloc(1, sizeof(*p));

    if (!p)
        error_set(err, STATUS_NOMEM, "no memory for a pre-tokenizer");
    return p;
}

void pretokenizer_destroy(struct pretokenizer *p)
{
    if (!p)
        return;
    for (size_t i = 0; i < p->count; i++)
        regex_destroy(p->steps[i].regex);
    free(p);
}

int pretokenizer_is_byte_level(const struct pretokenizer *p)
{
    return p->byte_level;
}

/* Takes what the step owns, also on failure. */
static int add_step(struct pretokenizer *p, const struct step *s, struct error *err)
{
    if (p->byte_level || p->count == STEPS_MAX) {
        regex_destroy(s->regex);
        return error_set(err, STATUS_UNSUPPORTED,
                         p->byte_level ? "a pre-tokenizer behind ByteLevel is not supported"
                                       : "a pre-tokenizer has more than %d steps",
                         STEPS_MAX);
    }
    p->steps[p->count++] = *s;
    return 0;
}

int pretokenizer_add_split(struct pretokenizer *p, const char *pattern, size_t len, int literal,
                           enum behavior behavior, int invert, struct error *err)
{
    struct step s = {.kind = STEP_SPLIT, .behavior = behavior, .invert = invert};

    s.regex = regex_create(pattern, len, literal, err);
    return s.regex ? add_step(p, &s, err) : -1;
}

int pretokenizer_add_byte_level(struct pretokenizer *p, int prefix_space, int use_regex,
                                struct error *err)
{
    static const struct step prefix = {.kind = STEP_PREFIX};

    if ((prefix_space && add_step(p, &prefix, err)) ||
        (use_regex && pretokenizer_add_split(p, gpt2_pattern, strlen(gpt2_pattern), 0,
                                             BEHAVIOR_ISOLATED, 0, err)))
        return -1;
    if (p->byte_level)
        return error_set(err, STATUS_UNSUPPORTED, "ByteLevel twice is not supported");
    p->byte_level = 1;
    return 0;
}

static int read_behavior(const json_t *json, enum behavior *out, struct error *err)
{
    static const char *const names[] = {"Removed", "Isolated", "MergedWithPrevious",
                                        "MergedWithNext", "Contiguous"};
    const char *name = member_string(json, "behavior", NULL, err);

    if (!name)
        return -1;
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
        if (strcmp(name, names[i]) == 0) {
            *out = (enum behavior)i;
            return 0;
        }
    return refuse_type("pre-tokenizer Split: behavior", name, err);
}

static int add_split_json(struct pretokenizer *p, const json_t *json, struct error *err)
{
    enum behavior behavior = BEHAVIOR_ISOLATED;
    const char *pattern;
    int literal, invert = 0;
    size_t len;

    if (read_behavior(json, &behavior, err) ||
        member_pattern(json, &pattern, &len, &literal, err) ||
        member_bool(json, "invert", &invert, err))
        return -1;
    return pretokenizer_add_split(p, pattern, len, literal, behavior, invert, err);
}

static int add_byte_level_json(struct pretokenizer *p, const json_t *json, struct error *err)
{
    int prefix_space = 1, use_regex = 1;

    if (member_bool(json, "add_prefix_space", &prefix_space, err) ||
        member_bool(json, "use_regex", &use_regex, err))
        return -1;
    return pretokenizer_add_byte_level(p, prefix_space, use_regex, err);
}

static int add_digits_json(struct pretokenizer *p, const json_t *json, struct error *err)
{
    int individual = 0;

    if (member_bool(json, "individual_digits", &individual, err))
        return -1;
    return pretokenizer_add_split(p, number_pattern, strlen(number_pattern), 0,
                                  individual ? BEHAVIOR_ISOLATED : BEHAVIOR_CONTIGUOUS, 0, err);
}

static int add_metaspace_json(struct pretokenizer *p, const json_t *json, struct error *err)
{
    struct step s = {.kind = STEP_METASPACE};
    const char *replacement = member_string(json, "replacement", "\xe2\x96\x81", err);
    int prefix = 1, split = 1;
    const char *scheme;

    if (!replacement || member_bool(json, "add_prefix_space", &prefix, err) ||
        member_bool(json, "split", &split, err))
        return -1;
    scheme = member_string(json, "prepend_scheme", prefix ? "always" : "never", err);
    if (!scheme)
        return -1;
    if (strlen(replacement) == 0 || strlen(replacement) >= sizeof(s.replacement))
        return error_set(err, STATUS_INVALID,
                         "pre-tokenizer Metaspace: \"replacement\" is no "
                         "character");
    s.prepend = strcmp(scheme, "always") == 0  ? PREPEND_ALWAYS
                : strcmp(scheme, "first") == 0 ? PREPEND_FIRST
                                               : PREPEND_NEVER;
    if (s.prepend == PREPEND_NEVER && strcmp(scheme, "never") != 0)
        return refuse_type("pre-tokenizer Metaspace: prepend_scheme", scheme, err);
    memcpy(s.replacement, replacement, strlen(replacement));
    if (add_step(p, &s, err))
        return -1;
    return split ? pretokenizer_add_split(p, replacement, strlen(replacement), 1,
                                          BEHAVIOR_MERGED_WITH_NEXT, 0, err)
                 : 0;
}

static int add_json(struct pretokenizer *p, const json_t *json, unsigned depth, struct error *err)
{
    const char *type = member_string(json, "type", NULL, err);
    const json_t *list, *one;
    size_t i;

    if (!type)
        return -1;
    if (strcmp(type, "Split") == 0)
        return add_split_json(p, json, err);
    if (strcmp(type, "ByteLevel") == 0)
        return add_byte_level_json(p, json, err);
    if (strcmp(type, "Digits") == 0)
        return add_digits_json(p, json, err);
    if (strcmp(type, "Metaspace") == 0)
        return add_metaspace_json(p, json, err);
    if (strcmp(type, "WhitespaceSplit") == 0)
        return pretokenizer_add_split(p, "\\s", 2, 0, BEHAVIOR_REMOVED, 0, err);
    if (strcmp(type, "Sequence") != 0 || depth == DEPTH_MAX)
        return refuse_type("pre-tokenizer", type, err);
    list = member_of(json, "pretokenizers");
    if (!json_is_array(list))
        return error_set(err, STATUS_INVALID, "\"pretokenizers\" is no list");
    json_array_foreach((json_t *)list, i, one) if (add_json(p, one, depth + 1, err)) return -1;
    return 0;
}

int pretokenizer_add_json(struct pretokenizer *p, const json_t *json, struct error *err)
{
    return add_json(p, json, 0, err);
}

/* Splitting */

struct splitter {
    const struct pretokenizer *p;
    struct regex_match *match;
    piece_f *piece;
    void *arg;
};

static int split(const struct splitter *s, size_t level, const char *text, size_t len, int first,
                 struct error *err);

/* The matches of one step in one piece, and what lies between them, one after the other. */
struct cutter {
    const struct splitter *s;
    size_t level;
    const char *text;
    int first;
    size_t begin, end; /* held back, since what follows may belong to it; none if begin == end */
    int matched;
};

static int emit(struct cutter *c, size_t begin, size_t end, struct error *err)
{
    return split(c->s, c->level + 1, c->text + begin, end - begin, c->first && begin == 0, err);
}

static int emit_held(struct cutter *c, struct error *err)
{
    size_t begin = c->begin;

    c->begin = c->end;
    return emit(c, begin, c->end, err);
}

static int cut(struct cutter *c, size_t begin, size_t end, int matched, struct error *err)
{
    const struct step *step = &c->s->p->steps[c->level];
    int joins = 0;

    if (begin == end)
        return 0;
    matched ^= step->invert;
    switch (step->behavior) {
    case BEHAVIOR_REMOVED:
        return matched ? 0 : emit(c, begin, end, err);
    case BEHAVIOR_ISOLATED:
        return emit(c, begin, end, err);
    case BEHAVIOR_MERGED_WITH_PREVIOUS:
        joins = matched && !c->matched;
        break;
    case BEHAVIOR_MERGED_WITH_NEXT:
        joins = !matched && c->matched;
        break;
    case BEHAVIOR_CONTIGUOUS:
        joins = matched == c->matched;
        break;
    }
    if (!(joins && c->begin < c->end)) {
        if (emit_held(c, err))
            return -1;
        c->begin = begin;
    }
    c->end = end;
    c->matched = matched;
    return 0;
}

static int split_pattern(const struct splitter *s, size_t level, const char *text, size_t len,
                         int first, struct error *err)
{
    struct cutter c = {.s = s, .level = level, .text = text, .first = first};
    size_t at = 0;

    while (at < len) {
        size_t begin, end;
        int found =
            regex_find(s->p->steps[level].regex, s->match, text, len, at, &begin, &end, err);

        if (found < 0)
            return -1;
        if (found == 0)
            break;
        if (cut(&c, at, begin, 0, err) || cut(&c, begin, end, 1, err))
            return -1;
        at = end;
    }
    return cut(&c, at, len, 0, err) || emit_held(&c, err) ? -1 : 0;
}

static int starts_with(const char *text, size_t len, const char *prefix)
{
    return len >= strlen(prefix) && memcmp(text, prefix, strlen(prefix)) == 0;
}

/* Spaces to the replacement, and one before the piece if it has none. */
static int replace_spaces(const struct step *step, const char *text, size_t len, int prepends,
                          struct bytes *out, struct error *err)
{
    const char *r = step->replacement;
    size_t at = 0;

    if (prepends && !starts_with(text, len, " ") && !starts_with(text, len, r) &&
        bytes_append(out, r, strlen(r), err))
        return -1;
    while (at < len) {
        const char *space = memchr(text + at, ' ', len - at);
        size_t end = space ? (size_t)(space - text) : len;

        if (bytes_append(out, text + at, end - at, err) ||
            (space && bytes_append(out, r, strlen(r), err)))
            return -1;
        at = end + 1;
    }
    return 0;
}

static int split_changed(const struct splitter *s, size_t level, const char *text, size_t len,
                         int first, struct error *err)
{
    const struct step *step = &s->p->steps[level];
    struct bytes changed = {NULL, 0, 0};
    int rv;

    if (step->kind == STEP_PREFIX)
        rv = (text[0] != ' ' && bytes_append(&changed, " ", 1, err)) ||
             bytes_append(&changed, text, len, err);
    else
        rv = replace_spaces(step, text, len,
                            step->prepend == PREPEND_ALWAYS ||
                                (step->prepend == PREPEND_FIRST && first),
                            &changed, err);
    if (rv == 0)
        rv = split(s, level + 1, changed.data, changed.len, first, err);
    bytes_free(&changed);
    return rv ? -1 : 0;
}

/* Apply the steps from number `level` on.  The piece is a subject of its own: a look-ahead ends
 * with it. */
static int split(const struct splitter *s, size_t level, const char *text, size_t len, int first,
                 struct error *err)
{
    if (len == 0)
        return 0;
    if (level == s->p->count)
        return s->piece(s->arg, text, len, err);
    if (s->p->steps[level].kind == STEP_SPLIT)
        return split_pattern(s, level, text, len, first, err);
    return split_changed(s, level, text, len, first, err);
}

int pretokenizer_split(const struct pretokenizer *p, struct regex_match *match, const char *text,
                       size_t len, int first, piece_f *piece, void *arg, struct error *err)
{
    const struct splitter s = {p, match, piece, arg};

    return split(&s, 0, text, len, first, err);
}
