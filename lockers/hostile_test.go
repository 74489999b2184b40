package lockers_test

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"net/url"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/spendflush/spendflush/internal/lab/testserver"
	"github.com/spendflush/spendflush/lockers/pglock"
	"github.com/spendflush/spendflush/migrations"
	"github.com/spendflush/spendflush/spend"
)

// stranger returns a connection of a role that may connect to the database and nothing else. It
// calls itself what an instance does.
func stranger(t *testing.T, databaseURL string) *pgx.Conn {
	t.Helper()
	run(t, openPool(t, databaseURL), `DO $$ BEGIN CREATE ROLE lock_stranger LOGIN PASSWORD 'p'; EXCEPTION WHEN duplicate_object THEN END $$`)
	u, err := url.Parse(databaseURL)
	if err != nil {
		t.Fatal(err)
	}
	u.User = url.UserPassword("lock_stranger", "p")
	values := u.Query()
	values.Set("application_name", "spendflush/a")
	u.RawQuery = values.Encode()
	conn, err := pgx.Connect(t.Context(), u.String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close(context.Background()) })
	return conn
}

func publicNumber(name string) int64 {
	sum := sha256.Sum256([]byte("github.com/spendflush/spendflush lock\x00" + name))
	return int64(binary.BigEndian.Uint64(sum[:8]))
}

func TestARoleWithoutRightsCanNotTakeALockByWhatIsPublic(t *testing.T) {
	databaseURL := database(t)
	if _, err := stranger(t, databaseURL).Exec(t.Context(), "SELECT pg_advisory_lock($1)", publicNumber(lock)); err != nil {
		t.Fatal(err)
	}
	acquire(t, pglock.New(openPool(t, databaseURL), "a"))
	if _, err := stranger(t, databaseURL).Exec(t.Context(), "SELECT salt FROM spendflush.lock_salt"); err == nil {
		t.Error("the salt can be read")
	}
}

// Once it is held, anyone can see the number of a lock in pg_locks.
func TestAHolderThatIsNoInstanceIsTold(t *testing.T) {
	databaseURL := database(t)
	admin := openPool(t, databaseURL)
	var number int64
	if err := admin.QueryRow(t.Context(), "SELECT salt # $1::bigint FROM spendflush.lock_salt", publicNumber(lock)).Scan(&number); err != nil {
		t.Fatal(err)
	}
	other := stranger(t, databaseURL)
	if _, err := other.Exec(t.Context(), "SELECT pg_advisory_lock($1)", number); err != nil {
		t.Fatal(err)
	}
	l := pglock.New(admin, "b")
	_, err := l.Acquire(t.Context(), lock)
	held, ok := errors.AsType[*spend.HeldError](err)
	if !ok {
		t.Fatal(err)
	}
	holder, err := l.Holder(t.Context(), lock)
	if err != nil || holder != held.Holder || holder.Owner != "" || !strings.Contains(holder.Foreign, `role "lock_stranger"`) ||
		!strings.Contains(held.Error(), holder.Foreign) {
		t.Errorf("the holder is %+v, %v", holder, err)
	}
	other.Close(t.Context())
	acquireSoon(t, l, lock)
}

func TestLocksNeedNoSettingOfThePoolNorOfTheDatabase(t *testing.T) {
	for _, encoding := range []string{"UTF8", "SQL_ASCII"} {
		databaseURL := testserver.PostgresEncoded(t, encoding)
		if _, err := migrations.Up(t.Context(), databaseURL); err != nil {
			t.Fatal(err)
		}
		run(t, openPool(t, databaseURL), `DO $$ BEGIN EXECUTE format('ALTER DATABASE %1$I SET client_encoding = SQL_ASCII;
			ALTER DATABASE %1$I SET standard_conforming_strings = off;
			ALTER DATABASE %1$I SET default_transaction_isolation = serializable; ALTER DATABASE %1$I SET default_transaction_deferrable = on;
			ALTER DATABASE %1$I SET search_path = nowhere', current_database()); END $$`)
		pool, err := pgxpool.New(t.Context(), databaseURL)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(pool.Close)
		a, b := pglock.New(pool, `o'w\ner é`), pglock.New(pool, "b")
		lease := acquire(t, a)
		_, err = b.Acquire(t.Context(), lock)
		held, ok := errors.AsType[*spend.HeldError](err)
		if holder, err := b.Holder(t.Context(), lock); !ok || err != nil || held.Holder != holder || holder.Owner != "o?w?ner ?" {
			t.Errorf("%s: the holder is %+v, %v", encoding, holder, err)
		}
		if err := lease.Release(t.Context()); err != nil {
			t.Error(err)
		}
	}
}

func TestADatabaseWithoutTheTablesGivesNoLock(t *testing.T) {
	l := pglock.New(openPool(t, testserver.Postgres(t)), "a")
	if _, err := l.Acquire(t.Context(), lock); err == nil || !strings.Contains(err.Error(), "salt") {
		t.Errorf("Acquire returned %v", err)
	}
}
