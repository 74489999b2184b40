package pgstore

import (
	"testing"

	"github.com/spendflush/spendflush/spend"
	"github.com/spendflush/spendflush/sql/storetest"
)

func TestPostgresIsAStore(t *testing.T) {
	storetest.Run(t, func(t *testing.T) spend.Store { return open(t, database(t), Options{}) })
}

func TestPostgresIsAStoreOfFacts(t *testing.T) {
	storetest.RunFacts(t, func(t *testing.T) storetest.Books { return open(t, database(t), Options{}) },
		func(t *testing.T, s storetest.Books) { wantAudit(t, s.(*Store)) })
}
