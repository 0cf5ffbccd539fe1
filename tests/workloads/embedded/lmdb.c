/* lmdb fill|check FOLDER [writemap]: fills an LMDB environment, or compares what is in it with what was put there.
 * Prints one line and ends with status 0, or says what is wrong and ends with status 1. */
#include <lmdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { COMMITS = 100, BULK = 20000 };

static void must(int result, const char *what) {
    if (result != 0) {
        printf("WRONG: %s: %s\n", what, mdb_strerror(result));
        exit(1);
    }
}

/* Lengths from 1 byte to 2999: some values take pages of their own. */
static size_t value(unsigned n, char *into) {
    unsigned x = n * 2654435761u + 1;
    size_t len = 1 + x % 3000 % (n % 16 == 0 ? 3000 : 100);
    for (size_t i = 0; i < len; i++) {
        x = x * 1664525u + 1013904223u;
        into[i] = (char)(x >> 24);
    }
    return len;
}

static void put(MDB_txn *txn, MDB_dbi dbi, unsigned n) {
    char bytes[3000];
    MDB_val key = {sizeof n, &n}, data = {value(n, bytes), bytes};
    must(mdb_put(txn, dbi, &key, &data, 0), "put");
}

int main(int argc, char **argv) {
    if (argc < 3) return 2;
    unsigned flags = argc > 3 && strcmp(argv[3], "writemap") == 0 ? MDB_WRITEMAP : 0;
    MDB_env *env;
    MDB_txn *txn;
    MDB_dbi dbi;
    must(mdb_env_create(&env), "create");
    must(mdb_env_set_mapsize(env, (size_t)1 << 30), "set_mapsize");
    must(mdb_env_open(env, argv[2], flags, 0644), "open");
    if (strcmp(argv[1], "fill") == 0) {
        /* A transaction for each of the first, one for all others; then every third goes. */
        for (unsigned n = 0; n < COMMITS; n++) {
            must(mdb_txn_begin(env, NULL, 0, &txn), "begin");
            must(mdb_dbi_open(txn, NULL, MDB_INTEGERKEY, &dbi), "dbi_open");
            put(txn, dbi, n);
            must(mdb_txn_commit(txn), "commit");
        }
        must(mdb_txn_begin(env, NULL, 0, &txn), "begin");
        for (unsigned n = COMMITS; n < BULK; n++) put(txn, dbi, n);
        must(mdb_txn_commit(txn), "commit");
        must(mdb_txn_begin(env, NULL, 0, &txn), "begin");
        for (unsigned n = 0; n < BULK; n += 3) {
            MDB_val key = {sizeof n, &n};
            must(mdb_del(txn, dbi, &key, NULL), "del");
        }
        must(mdb_txn_commit(txn), "commit");
        /* What is aborted leaves no trace. */
        must(mdb_txn_begin(env, NULL, 0, &txn), "begin");
        put(txn, dbi, 0);
        mdb_txn_abort(txn);
    }
    must(mdb_txn_begin(env, NULL, MDB_RDONLY, &txn), "begin");
    must(mdb_dbi_open(txn, NULL, MDB_INTEGERKEY, &dbi), "dbi_open");
    MDB_cursor *cursor;
    must(mdb_cursor_open(txn, dbi, &cursor), "cursor_open");
    MDB_val key, data;
    unsigned count = 0;
    for (unsigned n = 0; n < BULK; n++) {
        char bytes[3000];
        if (n % 3 == 0) continue;
        must(mdb_cursor_get(cursor, &key, &data, MDB_NEXT), "cursor_get");
        size_t len = value(n, bytes);
        if (key.mv_size != sizeof n || memcmp(key.mv_data, &n, sizeof n) != 0 || data.mv_size != len ||
            memcmp(data.mv_data, bytes, len) != 0) {
            printf("WRONG: record %u\n", n);
            return 1;
        }
        count++;
    }
    if (mdb_cursor_get(cursor, &key, &data, MDB_NEXT) != MDB_NOTFOUND) {
        printf("WRONG: records behind the last\n");
        return 1;
    }
    mdb_cursor_close(cursor);
    mdb_txn_abort(txn);
    mdb_env_close(env);
    printf("ok: %u records\n", count);
    return 0;
}
