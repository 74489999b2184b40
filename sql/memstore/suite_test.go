package memstore_test

import (
	"testing"

	"github.com/spendflush/spendflush/spend"
	"github.com/spendflush/spendflush/sql/memstore"
	"github.com/spendflush/spendflush/sql/storetest"
)

func TestMemoryIsAStore(t *testing.T) {
	storetest.Run(t, func(*testing.T) spend.Store { return memstore.New(memstore.Options{}) })
}
