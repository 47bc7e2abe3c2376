#include "model/json_member.h"

const json_t *member_of(const json_t *object, const char *key)
{
    const json_t *value = json_object_get(object, key);

    return json_is_null(value) ? NULL : value;
}

int member_bool(const json_t *object, const char *key, int *value, struct error *err)
{
    const json_t *member = member_of(object, key);

    if (!member)
        return 0;
    if (!json_is_boolean(member))
        return error_set(err, STATUS_INVALID, "\"%s\" is no boolean", key);
    *value = json_is_true(member);
    return 0;
}

const char *member_string(const json_t *object, const char *key, const char *otherwise,
                          struct error *err)
{
    const json_t *member = member_of(object, key);

    if (!member && otherwise)
        return otherwise;
    if (!json_is_string(member))
        error_set(err, STATUS_INVALID, "\"%s\" is no string", key);
    return json_string_value(member);
}

int member_pattern(const json_t *object, const char **text, size_t *len, int *literal,
                   struct error *err)
{
    const json_t *pattern = member_of(object, "pattern");
    const json_t *value = member_of(pattern, "Regex");

    *literal = value == NULL;
    if (!value)
        value = member_of(pattern, "String");
    if (!json_is_string(value) || json_string_length(value) == 0)
        return error_set(err, STATUS_INVALID, "\"pattern\" is neither a String nor a Regex");
    *text = json_string_value(value);
    *len = json_string_length(value);
    return 0;
}

int refuse_type(const char *what, const char *type, struct error *err)
{
    return error_set(err, STATUS_UNSUPPORTED, "%s %.64s is not supported", what, type);
}
