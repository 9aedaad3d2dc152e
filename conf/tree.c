/* SPDX-License-Identifier: PostgreSQL */
/*
 * libyaml's events to a tree.  The event interface is used and not its document loader, because an
 * unwanted depth or number of nodes can then be refused while it is read.
 */
#include "conf/tree.h"

#include "base/mem.h"

#include <stdlib.h>
#include <string.h>
#include <yaml.h>

struct builder {
	yaml_parser_t parser;
	const unsigned char *bytes;
	size_t len;
	struct config_block **blocks;
	struct problems *problems;
	struct node *root;
	struct node *stack[TREE_DEPTH_MAX];
	struct node *keys[TREE_DEPTH_MAX]; /* of a map: the key that waits for its value */
	size_t counted;                    /* the characters up to this one … */
	size_t counted_bytes;              /* … are so many bytes */
	size_t depth;
	size_t nodes;
	size_t documents;
	bool stop;
	bool complete;
};

/* Line and column of a byte: libyaml's reader gives only an offset. */
static void place_of_offset(const struct builder *builder, size_t offset, size_t *line,
                            size_t *column)
{
	*line = 1;
	*column = 1;
	for (size_t i = 0; i < offset && i < builder->len; i++) {
		if (builder->bytes[i] == '\n') {
			(*line)++;
			*column = 1;
		} else if ((builder->bytes[i] & 0xc0) != 0x80) {
			(*column)++;
		}
	}
}

/* What the author of the file most likely meant by what libyaml does not understand. */
static const char *syntax_hint(const yaml_parser_t *parser)
{
	if (parser->context != NULL && strstr(parser->context, "alias") != NULL)
		return "; a value that begins with * must be in quotes";
	if (parser->context != NULL && strstr(parser->context, "anchor") != NULL)
		return "; a value that begins with & must be in quotes";
	if (parser->problem != NULL && strstr(parser->problem, "cannot start any token") != NULL)
		return "; indent with spaces, not tabs, and put values with special characters "
		       "in quotes";
	if (parser->problem != NULL && strstr(parser->problem, "could not find expected ':'"))
		return "; each line is \"name: value\"";
	if (parser->problem != NULL && strstr(parser->problem, "mapping values are not allowed"))
		return "; a value that contains \": \" must be in quotes, and names of one "
		       "section begin in the same column";
	if (parser->problem != NULL && strstr(parser->problem, "did not find expected key"))
		return "; names of one section begin in the same column";
	return "";
}

static void report_syntax(struct builder *builder)
{
	const yaml_parser_t *parser = &builder->parser;
	const char *problem = parser->problem == NULL ? "not YAML" : parser->problem;
	size_t line;
	size_t column;

	switch (parser->error) {
	case YAML_READER_ERROR:
		place_of_offset(builder, parser->problem_offset, &line, &column);
		problem_add(builder->problems, line, column,
		            "%s; the file must be UTF-8 text without control characters", problem);
		break;
	case YAML_SCANNER_ERROR:
	case YAML_PARSER_ERROR:
		problem_add(builder->problems, parser->problem_mark.line + 1,
		            parser->problem_mark.column + 1, "YAML syntax: %s%s%s%s", problem,
		            parser->context == NULL ? "" : " ",
		            parser->context == NULL ? "" : parser->context, syntax_hint(parser));
		break;
	default:
		problem_add(builder->problems, 0, 0, "YAML cannot be read: %s", problem);
	}
}

/* libyaml counts characters, and not the byte order mark.  Marks mostly come in their order. */
static size_t offset_of(struct builder *builder, const yaml_mark_t *mark)
{
	static const unsigned char order_mark[] = {0xef, 0xbb, 0xbf};

	if (mark->index < builder->counted) {
		builder->counted = 0;
		builder->counted_bytes = 0;
	}
	if (builder->counted == 0 && builder->len >= 3 &&
	    memcmp(builder->bytes, order_mark, 3) == 0)
		builder->counted_bytes = 3;
	while (builder->counted < mark->index && builder->counted_bytes < builder->len) {
		builder->counted++;
		do
			builder->counted_bytes++;
		while (builder->counted_bytes < builder->len &&
		       (builder->bytes[builder->counted_bytes] & 0xc0) == 0x80);
	}
	return builder->counted_bytes;
}

static struct node *node_new(struct builder *builder, enum node_kind kind, const yaml_mark_t *mark)
{
	struct node *node = arena_alloc(builder->blocks, sizeof(*node));

	node->kind = kind;
	node->start = offset_of(builder, mark);
	node->line = mark->line + 1;
	node->column = mark->column + 1;
	if (++builder->nodes > TREE_NODES_MAX) {
		problem_add(builder->problems, node->line, node->column,
		            "the file has more than %d values", TREE_NODES_MAX);
		builder->stop = true;
	}
	return node;
}

static void append_child(struct node *parent, struct node *child)
{
	if (parent->last == NULL)
		parent->first = child;
	else
		parent->last->next = child;
	parent->last = child;
	parent->count++;
}

/* Puts a new node to its place: root, item, key or value. */
static void attach(struct builder *builder, struct node *node)
{
	struct node *parent = builder->depth == 0 ? NULL : builder->stack[builder->depth - 1];
	struct node **key = builder->depth == 0 ? NULL : &builder->keys[builder->depth - 1];

	if (parent == NULL) {
		builder->root = node;
	} else if (parent->kind == NODE_LIST) {
		append_child(parent, node);
	} else if (*key != NULL) {
		(*key)->value = node;
		*key = NULL;
	} else if (node->kind != NODE_SCALAR) {
		problem_add(builder->problems, node->line, node->column,
		            "expected a name here, not %s", node_kind_name(node));
		builder->stop = true;
	} else {
		append_child(parent, node);
		*key = node;
	}
}

static void refuse_extras(struct builder *builder, const struct node *node,
                          const yaml_char_t *anchor, const yaml_char_t *tag)
{
	if (anchor != NULL)
		problem_add(builder->problems, node->line, node->column,
		            "anchors (&name) are not supported; write the value without one");
	if (tag != NULL)
		problem_add(builder->problems, node->line, node->column,
		            "tags (!name) are not supported; write the value without one");
}

static void add_scalar(struct builder *builder, const yaml_event_t *event)
{
	struct node *node = node_new(builder, NODE_SCALAR, &event->start_mark);
	const char *text = (const char *)event->data.scalar.value;
	size_t len = event->data.scalar.length;

	refuse_extras(builder, node, event->data.scalar.anchor, event->data.scalar.tag);
	node->plain = event->data.scalar.style == YAML_PLAIN_SCALAR_STYLE;
	node->end = offset_of(builder, &event->end_mark);
	node->text = arena_strndup(builder->blocks, text, len);
	attach(builder, node);
	if (memchr(text, '\0', len) != NULL) {
		problem_add(builder->problems, node->line, node->column,
		            "a zero byte is not allowed in a value");
		builder->stop = true;
	}
}

static void add_alias(struct builder *builder, const yaml_event_t *event)
{
	struct node *node = node_new(builder, NODE_REFUSED, &event->start_mark);

	problem_add(builder->problems, node->line, node->column,
	            "aliases (*name) are not supported; write the value out, or in quotes if it "
	            "is meant to begin with *");
	attach(builder, node);
}

static void open_container(struct builder *builder, enum node_kind kind, const yaml_event_t *event)
{
	struct node *node = node_new(builder, kind, &event->start_mark);

	if (kind == NODE_LIST)
		refuse_extras(builder, node, event->data.sequence_start.anchor,
		              event->data.sequence_start.tag);
	else
		refuse_extras(builder, node, event->data.mapping_start.anchor,
		              event->data.mapping_start.tag);
	node->flow = kind == NODE_LIST
	                 ? event->data.sequence_start.style == YAML_FLOW_SEQUENCE_STYLE
	                 : event->data.mapping_start.style == YAML_FLOW_MAPPING_STYLE;
	attach(builder, node);
	if (builder->stop)
		return;
	if (builder->depth == TREE_DEPTH_MAX) {
		problem_add(builder->problems, node->line, node->column,
		            "nested too deep; no setting lies deeper than %d levels",
		            TREE_DEPTH_MAX);
		builder->stop = true;
		return;
	}
	builder->keys[builder->depth] = NULL;
	builder->stack[builder->depth++] = node;
}

static int compare_keys(const void *a, const void *b)
{
	const struct node *left = *(const struct node *const *)a;
	const struct node *right = *(const struct node *const *)b;
	int order = strcmp(left->text, right->text);

	if (order != 0)
		return order;
	if (left->line != right->line)
		return left->line < right->line ? -1 : 1;
	return left->column < right->column ? -1 : left->column > right->column;
}

/* By sorting: a file may well name thousands of databases. */
static void refuse_duplicates(struct builder *builder, const struct node *map)
{
	const struct node **keys;
	const struct node *first = NULL;
	char quoted[PROBLEM_QUOTE_MAX];
	size_t count = 0;

	if (map->count < 2)
		return;
	keys = mem_must_grow(NULL, map->count, sizeof(const struct node *));
	for (const struct node *key = map->first; key != NULL; key = key->next)
		keys[count++] = key;
	qsort(keys, count, sizeof(const struct node *), compare_keys);
	for (size_t i = 0; i < count; i++) {
		if (first == NULL || strcmp(first->text, keys[i]->text) != 0) {
			first = keys[i];
			continue;
		}
		problem_add(builder->problems, keys[i]->line, keys[i]->column,
		            "%s is given twice; it was given first in line %zu",
		            problem_quote(keys[i]->text, quoted), first->line);
	}
	free(keys);
}

static void close_container(struct builder *builder)
{
	struct node *node = builder->stack[--builder->depth];

	if (node->kind != NODE_MAP)
		return;
	refuse_duplicates(builder, node);
	for (const struct node *key = node->first; key != NULL; key = key->next)
		if (key->plain && strcmp(key->text, "<<") == 0)
			problem_add(builder->problems, key->line, key->column,
			            "merge keys (<<) are not supported; write the settings out");
}

static void handle_event(struct builder *builder, const yaml_event_t *event)
{
	switch (event->type) {
	case YAML_SCALAR_EVENT:
		add_scalar(builder, event);
		break;
	case YAML_ALIAS_EVENT:
		add_alias(builder, event);
		break;
	case YAML_SEQUENCE_START_EVENT:
		open_container(builder, NODE_LIST, event);
		break;
	case YAML_MAPPING_START_EVENT:
		open_container(builder, NODE_MAP, event);
		break;
	case YAML_SEQUENCE_END_EVENT:
	case YAML_MAPPING_END_EVENT:
		close_container(builder);
		break;
	case YAML_DOCUMENT_START_EVENT:
		if (++builder->documents > 1) {
			problem_add(builder->problems, event->start_mark.line + 1,
			            event->start_mark.column + 1,
			            "a second YAML document begins here; the file must be one");
			builder->stop = true;
		}
		break;
	case YAML_STREAM_END_EVENT:
		builder->complete = true;
		builder->stop = true;
		break;
	default:
		break;
	}
}

/* libyaml compares each of these lines with all before it, and nobody needs one: tags are refused
 * anyway.  The line of the first one, 0 if there is none. */
static size_t find_tag_directive(const unsigned char *bytes, size_t len)
{
	static const char word[] = "%TAG";
	size_t line = 1;

	for (size_t at = 0; at + sizeof(word) - 1 <= len; at++) {
		if (bytes[at] == '\n')
			line++;
		if ((at == 0 || bytes[at - 1] == '\n' || bytes[at - 1] == '\r') &&
		    memcmp(bytes + at, word, sizeof(word) - 1) == 0)
			return line;
	}
	return 0;
}

bool tree_parse(const void *bytes, size_t len, struct config_block **blocks, struct node **root,
                struct problems *problems)
{
	struct builder builder = {
	    .bytes = bytes, .len = len, .blocks = blocks, .problems = problems};
	yaml_event_t event;
	size_t directive;

	*root = NULL;
	/* A byte order mark, as editors of Windows write it. */
	if (len >= 3 && memcmp(bytes, "\xef\xbb\xbf", 3) == 0) {
		builder.bytes += 3;
		builder.len -= 3;
	}
	directive = find_tag_directive(builder.bytes, builder.len);
	if (directive != 0) {
		problem_add(problems, directive, 1,
		            "%%TAG lines are not supported; leave the line out");
		return false;
	}
	if (yaml_parser_initialize(&builder.parser) == 0) {
		problem_add(problems, 0, 0, "out of memory");
		return false;
	}
	/* Without this libyaml would take UTF-16 too, and offsets would mean something else. */
	yaml_parser_set_encoding(&builder.parser, YAML_UTF8_ENCODING);
	yaml_parser_set_input_string(&builder.parser, builder.bytes, builder.len);
	while (!builder.stop) {
		if (yaml_parser_parse(&builder.parser, &event) == 0) {
			report_syntax(&builder);
			break;
		}
		handle_event(&builder, &event);
		yaml_event_delete(&event);
	}
	yaml_parser_delete(&builder.parser);
	*root = builder.root;
	return builder.complete;
}

bool node_is_null(const struct node *node)
{
	return node->kind == NODE_SCALAR && node->plain &&
	       (node->text[0] == '\0' || strcmp(node->text, "~") == 0 ||
	        strcmp(node->text, "null") == 0 || strcmp(node->text, "Null") == 0 ||
	        strcmp(node->text, "NULL") == 0);
}

const struct node *node_find_key(const struct node *map, const char *name)
{
	if (map == NULL || map->kind != NODE_MAP)
		return NULL;
	for (const struct node *key = map->first; key != NULL; key = key->next)
		if (strcmp(key->text, name) == 0)
			return key;
	return NULL;
}

const char *node_kind_name(const struct node *node)
{
	switch (node->kind) {
	case NODE_LIST:
		return "a list";
	case NODE_MAP:
		return "a mapping";
	case NODE_SCALAR:
		return node_is_null(node) ? "nothing" : "a single value";
	case NODE_REFUSED:
		break;
	}
	return "an alias";
}
