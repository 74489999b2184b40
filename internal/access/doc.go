// Package access knows who may use the HTTP API: tokens, each with the stable name of its caller
// and with roles. They come from a list, or from a file that is read again and again.
//
// A Token is known by its pointer. A new list that has the same token, with the same name and
// roles, has the same pointer: what belongs to a Token, such as sessions that were made with it,
// goes on exactly as long as it is in the list.
package access
