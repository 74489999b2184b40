package pgstore

import "github.com/spendflush/spendflush/internal/sqlhook"

func init() {
	sqlhook.Text = embedded.get
	sqlhook.Replace = func(store any, with func(name, text string) string) {
		store.(*Store).statement = func(name string) string { return with(name, embedded.get(name)) }
	}
}
