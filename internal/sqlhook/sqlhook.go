// Package sqlhook lets measurements see what package pgstore costs without one of its parts.
// Package pgstore fills it in; it is internal, so that nobody's books can be kept in this way.
package sqlhook

// Text returns the text of a statement of package pgstore, by the name of its file without the
// extension.
var Text func(name string) string

// Replace has a *pgstore.Store send with(name, text) where it would send the statement of that
// name.
var Replace func(store any, with func(name, text string) string)
