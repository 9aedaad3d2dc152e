/* SPDX-License-Identifier: PostgreSQL */
#include "conf/value.h"

#include "conf/problem.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <syslog.h>

struct word {
	const char *word;
	int value;
};

#define WORD_ROW(constant, text) {(text), (int)(constant)},
static const struct word auth_type_words[] = {
#define CONFIG_AUTH_TYPE_ROW WORD_ROW
#include "conf/enums.def"
    {NULL, 0}};
static const struct word pool_mode_words[] = {
#define CONFIG_POOL_MODE_ROW WORD_ROW
#include "conf/enums.def"
    {NULL, 0}};
static const struct word pinned_words[] = {
#define CONFIG_PINNED_ROW WORD_ROW
#include "conf/enums.def"
    {NULL, 0}};
static const struct word balance_words[] = {
#define CONFIG_BALANCE_ROW WORD_ROW
#include "conf/enums.def"
    {NULL, 0}};

static const struct word hold_overflow_words[] = {
#define CONFIG_HOLD_OVERFLOW_ROW WORD_ROW
#include "conf/enums.def"
    {NULL, 0}};
static const struct word drain_policy_words[] = {
#define CONFIG_DRAIN_POLICY_ROW WORD_ROW
#include "conf/enums.def"
    {NULL, 0}};
static const struct word sslmode_words[] = {
#define CONFIG_SSLMODE_ROW WORD_ROW
#include "conf/enums.def"
    {NULL, 0}};
static const struct word sslnegotiation_words[] = {
#define CONFIG_SSLNEGOTIATION_ROW WORD_ROW
#include "conf/enums.def"
    {NULL, 0}};
static const struct word channel_binding_words[] = {
#define CONFIG_CHANNEL_BINDING_ROW WORD_ROW
#include "conf/enums.def"
    {NULL, 0}};
static const struct word protocol_words[] = {
#define CONFIG_PROTOCOL_ROW WORD_ROW
#include "conf/enums.def"
    {NULL, 0}};
static const struct word log_level_words[] = {
#define CONFIG_LOG_LEVEL_ROW WORD_ROW
#include "conf/enums.def"
    {NULL, 0}};
static const struct word log_destination_words[] = {
#define CONFIG_LOG_DESTINATION_ROW WORD_ROW
#include "conf/enums.def"
    {NULL, 0}};
static const struct word syslog_facility_words[] = {
#define CONFIG_SYSLOG_FACILITY_ROW WORD_ROW
#include "conf/enums.def"
    {NULL, 0}};
static const struct word log_format_words[] = {
#define CONFIG_LOG_FORMAT_ROW WORD_ROW
#include "conf/enums.def"
    {NULL, 0}};

/* YAML 1.1's words, as Ansible and PyYAML write them. */
static const struct word bool_words[] = {
    {"true", 1},  {"false", 0}, {"yes", 1}, {"no", 0},  {"on", 1},  {"off", 0},  {"True", 1},
    {"False", 0}, {"Yes", 1},   {"No", 0},  {"On", 1},  {"Off", 0}, {"TRUE", 1}, {"FALSE", 0},
    {"YES", 1},   {"NO", 0},    {"ON", 1},  {"OFF", 0}, {NULL, 0},
};

struct unit {
	const char *name;
	int64_t factor;
};

/* Both tables from the smallest to the largest; the first is the one that formatting ends with. */
static const struct unit duration_units[] = {
    {"us", 1},
    {"ms", USEC_PER_MSEC},
    {"s", USEC_PER_SEC},
    {"min", 60 * USEC_PER_SEC},
    {"h", 3600 * USEC_PER_SEC},
    {"d", 86400 * USEC_PER_SEC},
    {NULL, 0},
};
static const struct unit size_units[] = {
    {"B", 1},
    {"kB", (int64_t)1 << 10},
    {"MB", (int64_t)1 << 20},
    {"GB", (int64_t)1 << 30},
    {"TB", (int64_t)1 << 40},
    {NULL, 0},
};

static const struct word *words_of(enum value_type type)
{
	switch (type) {
	case VALUE_BOOL:
		return bool_words;
	case VALUE_AUTH_TYPE:
		return auth_type_words;
	case VALUE_POOL_MODE:
		return pool_mode_words;
	case VALUE_PINNED:
		return pinned_words;
	case VALUE_BALANCE:
		return balance_words;
	case VALUE_HOLD_OVERFLOW:
		return hold_overflow_words;
	case VALUE_DRAIN_POLICY:
		return drain_policy_words;
	case VALUE_SSLMODE:
		return sslmode_words;
	case VALUE_SSLNEGOTIATION:
		return sslnegotiation_words;
	case VALUE_CHANNEL_BINDING:
		return channel_binding_words;
	case VALUE_PROTOCOL:
		return protocol_words;
	case VALUE_LOG_LEVEL:
		return log_level_words;
	case VALUE_LOG_FORMAT:
		return log_format_words;
	case VALUE_LOG_DESTINATION:
		return log_destination_words;
	case VALUE_SYSLOG_FACILITY:
		return syslog_facility_words;
	default:
		return NULL;
	}
}

static const char *word_of(const struct word *words, int value)
{
	for (; words->word != NULL; words++)
		if (words->value == value)
			return words->word;
	return "?";
}

static bool word_find(const struct word *words, const char *text, int64_t *value)
{
	for (; words->word != NULL; words++) {
		if (strcmp(words->word, text) == 0) {
			*value = words->value;
			return true;
		}
	}
	return false;
}

/* Digits of `base` at *text, which is moved behind them; false if there are none or too many. */
static bool parse_digits(const char **text, int base, int64_t *value)
{
	const char *at = *text;

	*value = 0;
	for (; *at >= '0' && *at < '0' + base; at++)
		if (__builtin_mul_overflow(*value, base, value) ||
		    __builtin_add_overflow(*value, *at - '0', value))
			return false;
	if (at == *text)
		return false;
	*text = at;
	return true;
}

/* A number and a unit; a bare number has the unit `bare`. */
static bool parse_with_unit(const char *text, const struct unit *units, int64_t bare,
                            int64_t *value)
{
	int64_t number;

	if (!parse_digits(&text, 10, &number))
		return false;
	if (*text == '\0')
		return !__builtin_mul_overflow(number, bare, value);
	if (*text == ' ')
		text++;
	for (; units->name != NULL; units++)
		if (strcmp(units->name, text) == 0)
			return !__builtin_mul_overflow(number, units->factor, value);
	return false;
}

bool config_parse_duration(const char *text, usec_t *value)
{
	return parse_with_unit(text, duration_units, USEC_PER_SEC, value);
}

bool config_parse_size(const char *text, int64_t *value)
{
	return parse_with_unit(text, size_units, 1, value);
}

static bool parse_int(const char *text, int64_t *value)
{
	bool negative = *text == '-';

	if (*text == '-' || *text == '+')
		text++;
	if (!parse_digits(&text, 10, value) || *text != '\0')
		return false;
	if (negative)
		*value = -*value;
	return true;
}

/* Always octal, with or without the 0 or 0o before it. */
static bool parse_mode(const char *text, int64_t *value)
{
	if (text[0] == '0' && text[1] == 'o')
		text += 2;
	return parse_digits(&text, 8, value) && *text == '\0';
}

/* The types that are a number with a range. */
static bool parse_number(enum value_type type, const char *text, int64_t *value)
{
	switch (type) {
	case VALUE_INT:
	case VALUE_PORT:
		return parse_int(text, value);
	case VALUE_DURATION:
		return config_parse_duration(text, value);
	case VALUE_SIZE:
		return config_parse_size(text, value);
	case VALUE_MODE:
		return parse_mode(text, value);
	default:
		return false;
	}
}

static bool is_number(enum value_type type)
{
	return type == VALUE_INT || type == VALUE_PORT || type == VALUE_DURATION ||
	       type == VALUE_SIZE || type == VALUE_MODE;
}

static void describe_type(const struct setting *setting, struct sbuf *why)
{
	switch (setting->type) {
	case VALUE_BOOL:
		sbuf_add_str(why, "true or false");
		break;
	case VALUE_INT:
	case VALUE_PORT:
		sbuf_printf(why, "a whole number from %s to %s", setting->text.least,
		            setting->text.most);
		break;
	case VALUE_DURATION:
		sbuf_printf(why, "a duration such as 250ms, 5s, 2min, 1h or 1d, from %s to %s",
		            setting->text.least, setting->text.most);
		break;
	case VALUE_SIZE:
		sbuf_printf(why, "a size such as 64kB, 16MB or 1GB, from %s to %s",
		            setting->text.least, setting->text.most);
		break;
	case VALUE_MODE:
		sbuf_printf(why, "an octal file mode from %s to %s, such as \"0770\"",
		            setting->text.least, setting->text.most);
		break;
	case VALUE_ENV:
		sbuf_add_str(why, "the name of an environment variable (letters, digits and _), "
		                  "not a password");
		break;
	default:
		sbuf_add_str(why, setting->text.type);
	}
}

static bool parse_failed(const struct setting *setting, const char *text, const char *what,
                         struct sbuf *why)
{
	char quoted[PROBLEM_QUOTE_MAX];

	/* A password may stand here by mistake, and is not to be repeated. */
	if (setting->type != VALUE_ENV)
		sbuf_printf(why, "%s ", problem_quote(text, quoted));
	else
		sbuf_add_str(why, "the value ");
	sbuf_printf(why, "%s; expected ", what);
	describe_type(setting, why);
	return false;
}

static void store_number(const struct setting *setting, void *base, int64_t value)
{
	void *field = (char *)base + setting->offset;

	switch (setting->type) {
	case VALUE_DURATION:
	case VALUE_SIZE:
		*(int64_t *)field = value;
		break;
	case VALUE_BOOL:
		*(bool *)field = value != 0;
		break;
	default: /* int and the enumerations */
		*(int *)field = (int)value;
	}
}

static int64_t load_number(const struct setting *setting, const void *base)
{
	const void *field = (const char *)base + setting->offset;

	switch (setting->type) {
	case VALUE_DURATION:
	case VALUE_SIZE:
		return *(const int64_t *)field;
	case VALUE_BOOL:
		return *(const bool *)field ? 1 : 0;
	default:
		return *(const int *)field;
	}
}

/* load_number and store_number reach the enumerations as int. */
_Static_assert(sizeof(enum config_pool_mode) == sizeof(int), "enumerations are stored as int");
_Static_assert(sizeof(usec_t) == sizeof(int64_t), "durations are stored as int64_t");

static bool is_env_name(const char *text)
{
	if (*text >= '0' && *text <= '9')
		return false;
	for (; *text != '\0'; text++)
		if (!((*text >= 'a' && *text <= 'z') || (*text >= 'A' && *text <= 'Z') ||
		      (*text >= '0' && *text <= '9') || *text == '_'))
			return false;
	return true;
}

bool value_check_string(const struct setting *setting, const char *text, struct sbuf *why)
{
	if (setting->type == VALUE_ENV && !is_env_name(text))
		return parse_failed(setting, text, "is not right", why);
	for (const char *at = text; *at != '\0'; at++) {
		bool layout = *at == '\n' || *at == '\t';

		if ((unsigned char)*at >= 0x20 && *at != 0x7f)
			continue;
		if (layout && setting->type == VALUE_QUERY)
			continue;
		sbuf_add_str(why, "the value has a line break, a tab or another control "
		                  "character; expected one line of text");
		return false;
	}
	if (setting->text.required && text[0] == '\0') {
		sbuf_add_str(why, "the value is empty; this setting needs one");
		return false;
	}
	return true;
}

static const char *resolve_path(const struct setting *setting, const char *text,
                                const struct value_context *context)
{
	char *path;
	size_t len;

	/* (@ is what a Unix socket of the abstract namespace begins with.) */
	if (text[0] == '\0' || text[0] == '/' || context->directory[0] == '\0' ||
	    (text[0] == '@' && strcmp(setting->text.name, "unix_socket_directory") == 0))
		return arena_strdup(context->blocks, text);
	len = strlen(context->directory) + 1 + strlen(text) + 1;
	path = arena_alloc(context->blocks, len);
	(void)snprintf(path, len, "%s/%s", context->directory, text);
	return path;
}

static void store_string(const struct setting *setting, const char *text, void *base,
                         const struct value_context *context)
{
	void *field = (char *)base + setting->offset;
	const char **items;

	if (setting->type == VALUE_PATH) {
		*(const char **)field = resolve_path(setting, text, context);
	} else if (setting->type == VALUE_LIST) {
		items = arena_alloc(context->blocks, sizeof(*items));
		items[0] = arena_strdup(context->blocks, text);
		*(struct config_list *)field =
		    (struct config_list){.items = items, .count = text[0] == '\0' ? 0 : 1};
	} else {
		*(const char **)field = arena_strdup(context->blocks, text);
	}
}

void value_range(const struct setting *setting, int64_t *least, int64_t *most)
{
	if (!parse_number(setting->type, setting->text.least, least) ||
	    !parse_number(setting->type, setting->text.most, most))
		assert(!"a range of settings.def is not right");
}

bool value_parse(const struct setting *setting, const char *text, void *base,
                 const struct value_context *context, struct sbuf *why)
{
	const struct word *words = words_of(setting->type);
	int64_t value = 0;
	int64_t least = 0;
	int64_t most = 0;

	assert(setting->type != VALUE_SERVER);
	if (words != NULL) {
		if (!word_find(words, text, &value))
			return parse_failed(setting, text, "is not known", why);
	} else if (is_number(setting->type)) {
		if (!parse_number(setting->type, text, &value))
			return parse_failed(setting, text, "is not right", why);
		value_range(setting, &least, &most);
		if (value < least || value > most)
			return parse_failed(setting, text, "is out of range", why);
	} else {
		if (!value_check_string(setting, text, why))
			return false;
		store_string(setting, text, base, context);
		return true;
	}
	store_number(setting, base, value);
	return true;
}

void value_set_default(const struct setting *setting, void *base,
                       const struct value_context *context)
{
	/* A default is what it is, wherever the file lies. */
	struct value_context absolute = {.blocks = context->blocks, .directory = ""};
	struct sbuf why;

	if (setting->type == VALUE_SERVER)
		return;
	if (setting->text.fallback == NULL) {
		if (words_of(setting->type) != NULL || is_number(setting->type))
			store_number(setting, base, CONFIG_UNSET);
		else
			store_string(setting, "", base, &absolute);
		return;
	}
	sbuf_init(&why, 512);
	if (!value_parse(setting, setting->text.fallback, base, &absolute, &why))
		assert(!"a default of settings.def is not right");
	sbuf_free(&why);
}

bool value_is_unset(const struct setting *setting, const void *base)
{
	return setting->text.fallback == NULL && !setting->text.required &&
	       (words_of(setting->type) != NULL || is_number(setting->type)) &&
	       load_number(setting, base) == CONFIG_UNSET;
}

static void format_with_unit(int64_t value, const struct unit *units, struct sbuf *out)
{
	const struct unit *best = units;

	if (value == 0) {
		sbuf_add_char(out, '0');
		return;
	}
	for (; units->name != NULL; units++)
		if (value % units->factor == 0)
			best = units;
	sbuf_printf(out, "%" PRId64 "%s", value / best->factor, best->name);
}

static void format_list(const struct config_list *list, struct sbuf *out)
{
	for (size_t i = 0; i < list->count; i++)
		sbuf_printf(out, "%s%s", i == 0 ? "" : ", ", list->items[i]);
}

void value_format(const struct setting *setting, const void *base, struct sbuf *out)
{
	const void *field = (const char *)base + setting->offset;
	const struct config_server *server;

	switch (setting->type) {
	case VALUE_INT:
	case VALUE_PORT:
		sbuf_printf(out, "%d", *(const int *)field);
		break;
	case VALUE_MODE:
		sbuf_printf(out, "%04o", (unsigned)*(const int *)field);
		break;
	case VALUE_DURATION:
		format_with_unit(load_number(setting, base), duration_units, out);
		break;
	case VALUE_SIZE:
		format_with_unit(load_number(setting, base), size_units, out);
		break;
	case VALUE_STRING:
	case VALUE_PATH:
	case VALUE_QUERY:
	case VALUE_ENV:
		sbuf_add_str(out, *(const char *const *)field);
		break;
	case VALUE_LIST:
		format_list(field, out);
		break;
	case VALUE_SERVER:
		server = *(const struct config_server *const *)field;
		sbuf_add_str(out, server == NULL ? "" : server->name);
		break;
	default:
		sbuf_add_str(out,
		             word_of(words_of(setting->type), (int)load_number(setting, base)));
	}
}

void value_copy(const struct setting *setting, const void *from, void *to,
                struct config_block **blocks)
{
	const void *source = (const char *)from + setting->offset;
	void *target = (char *)to + setting->offset;
	const struct config_list *list;
	const char **items;

	switch (setting->type) {
	case VALUE_STRING:
	case VALUE_PATH:
	case VALUE_QUERY:
	case VALUE_ENV:
		*(const char **)target = arena_strdup(blocks, *(const char *const *)source);
		break;
	case VALUE_LIST:
		list = source;
		items = arena_alloc(blocks, (list->count + 1) * sizeof(*items));
		for (size_t i = 0; i < list->count; i++)
			items[i] = arena_strdup(blocks, list->items[i]);
		*(struct config_list *)target =
		    (struct config_list){.items = items, .count = list->count};
		break;
	case VALUE_SERVER: /* entries point into their own configuration only */
		assert(!"references are not copied");
		break;
	default:
		memcpy(target, source, setting->size);
	}
}

const char *config_auth_type_name(enum config_auth_type value)
{
	return word_of(auth_type_words, (int)value);
}

const char *config_pinned_name(enum config_pinned value)
{
	return word_of(pinned_words, (int)value);
}

const char *config_pool_mode_name(enum config_pool_mode value)
{
	return word_of(pool_mode_words, (int)value);
}

const char *config_balance_name(enum config_balance value)
{
	return word_of(balance_words, (int)value);
}

const char *config_sslmode_name(enum config_sslmode value)
{
	return word_of(sslmode_words, (int)value);
}

const char *config_channel_binding_name(enum config_channel_binding value)
{
	return word_of(channel_binding_words, (int)value);
}

const char *config_drain_policy_name(enum config_drain_policy value)
{
	return word_of(drain_policy_words, (int)value);
}

bool config_drain_policy_parse(const char *word, enum config_drain_policy *value)
{
	int64_t number;

	if (!word_find(drain_policy_words, word, &number))
		return false;
	*value = (enum config_drain_policy)number;
	return true;
}
