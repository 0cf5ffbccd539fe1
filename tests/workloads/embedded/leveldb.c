/* leveldb fill|check FOLDER: fills a LevelDB database, or compares what is in it with what was put there.
 * Prints one line and ends with status 0, or says what is wrong and ends with status 1. */
#include <leveldb/c.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SYNCED = 100, BULK = 20000, PER_BATCH = 100 };

static void must(char *error, const char *what) {
    if (error != NULL) {
        printf("WRONG: %s: %s\n", what, error);
        exit(1);
    }
}

static size_t value(unsigned n, char *into) {
    unsigned x = n * 2654435761u + 1;
    size_t len = 1 + x % 400;
    for (size_t i = 0; i < len; i++) {
        x = x * 1664525u + 1013904223u;
        into[i] = (char)(x >> 24);
    }
    return len;
}

static size_t name(unsigned n, char *into) { return (size_t)sprintf(into, "%08u", n); }

int main(int argc, char **argv) {
    if (argc < 3) return 2;
    char *error = NULL, key[16], bytes[400];
    leveldb_options_t *options = leveldb_options_create();
    leveldb_options_set_create_if_missing(options, 1);
    leveldb_options_set_paranoid_checks(options, 1);
    leveldb_options_set_write_buffer_size(options, 1 << 20);
    leveldb_t *db = leveldb_open(options, argv[2], &error);
    must(error, "open");
    if (strcmp(argv[1], "fill") == 0) {
        leveldb_writeoptions_t *synced = leveldb_writeoptions_create();
        leveldb_writeoptions_set_sync(synced, 1);
        for (unsigned n = 0; n < SYNCED; n++) {
            leveldb_put(db, synced, key, name(n, key), bytes, value(n, bytes), &error);
            must(error, "put");
        }
        for (unsigned n = SYNCED; n < BULK; n += PER_BATCH) {
            leveldb_writebatch_t *batch = leveldb_writebatch_create();
            for (unsigned i = n; i < n + PER_BATCH; i++) {
                leveldb_writebatch_put(batch, key, name(i, key), bytes, value(i, bytes));
            }
            leveldb_write(db, synced, batch, &error);
            must(error, "write");
            leveldb_writebatch_destroy(batch);
        }
        for (unsigned n = 0; n < BULK; n += 3) {
            leveldb_delete(db, leveldb_writeoptions_create(), key, name(n, key), &error);
            must(error, "delete");
        }
        leveldb_compact_range(db, NULL, 0, NULL, 0);
    }
    leveldb_readoptions_t *reading = leveldb_readoptions_create();
    leveldb_readoptions_set_verify_checksums(reading, 1);
    leveldb_iterator_t *at = leveldb_create_iterator(db, reading);
    leveldb_iter_seek_to_first(at);
    unsigned count = 0;
    for (unsigned n = 0; n < BULK; n++) {
        if (n % 3 == 0) continue;
        size_t key_len = 0, len = 0, got_len = 0;
        const char *got_key = leveldb_iter_valid(at) ? leveldb_iter_key(at, &key_len) : "";
        const char *got = leveldb_iter_valid(at) ? leveldb_iter_value(at, &len) : "";
        size_t right = value(n, bytes);
        if (key_len != name(n, key) || memcmp(got_key, key, key_len) != 0 || len != right ||
            memcmp(got, bytes, len) != 0) {
            printf("WRONG: record %u\n", n);
            return 1;
        }
        char *again = leveldb_get(db, reading, key, name(n, key), &got_len, &error);
        must(error, "get");
        if (again == NULL || got_len != right || memcmp(again, bytes, right) != 0) {
            printf("WRONG: get of record %u\n", n);
            return 1;
        }
        leveldb_free(again);
        leveldb_iter_next(at);
        count++;
    }
    if (leveldb_iter_valid(at)) {
        printf("WRONG: records behind the last\n");
        return 1;
    }
    leveldb_iter_destroy(at);
    leveldb_close(db);
    printf("ok: %u records\n", count);
    return 0;
}
