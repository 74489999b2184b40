package sql

import (
	"encoding/binary"
	"testing"

	"github.com/spendflush/spendflush"
)

func keyOf(n int) (key spendflush.Key) {
	binary.BigEndian.PutUint64(key[:], uint64(n))
	return key
}

// missing asks for one key.
func missing(k *known, n int) bool {
	places, _ := k.missing(nil, 1, func(int) spendflush.Key { return keyOf(n) })
	return len(places) == 1
}

func TestKnownKeysAreBoundedAndThoseInUseStay(t *testing.T) {
	k := &known{limit: 100}
	k.learn([]spendflush.Key{keyOf(0)}, 0)
	for n := 1; n < 10_000; n++ {
		k.learn([]spendflush.Key{keyOf(n)}, 0)
		if missing(k, 0) {
			t.Fatalf("a key that every flush asks for is forgotten after %d others", n)
		}
		if size := k.size(); size > 2*k.limit {
			t.Fatalf("%d keys are remembered", size)
		}
	}
	if !missing(k, 1) {
		t.Error("a key not asked for is remembered for ever")
	}
}

func TestWhatATransactionLearnedFromBeforeAllWasForgottenIsNotRemembered(t *testing.T) {
	k := &known{limit: 100}
	_, epoch := k.missing(nil, 1, func(int) spendflush.Key { return keyOf(1) })
	k.forget()
	k.learn([]spendflush.Key{keyOf(1)}, epoch)
	if !missing(k, 1) {
		t.Error("the key is remembered though the dictionary is in doubt")
	}
	k.learn([]spendflush.Key{keyOf(1)}, epoch+1)
	if missing(k, 1) {
		t.Error("the key isn't remembered")
	}
}

func TestAStoreMayBeToldToRememberNothing(t *testing.T) {
	k := &known{}
	k.learn([]spendflush.Key{keyOf(1)}, 0)
	if !missing(k, 1) || k.size() != 0 {
		t.Error("a key is remembered")
	}
}
