// Package email writes an alert as an e-mail and hands it to an SMTP server,
// once for each call. It knows neither the database nor who calls it again.
//
// What it promises:
//
//   - Send returns nil only after the server answered 250 to the whole message,
//     and always after that, whatever happens to the connection later.
//   - A message that Send returned an error for may have arrived all the same:
//     where the connection breaks between the end of the message and the
//     server's answer, nobody on this side can know (RFC 5321, 4.1.1.4 and
//     4.2.5). It is sent again, and carries the same Message-ID, by which
//     servers and mail programs can tell that the two are one.
//   - Send ends with its context, and after 30 seconds at the latest.
//   - A password goes through TLS, to a server whose certificate is valid for
//     the name that was asked for, or nowhere. The one exception is a server
//     that TLS None was chosen for by name.
//   - No error holds a password, an account, or the address of a user, even
//     where the server's answer does.
//   - Nothing that a name, a template or a message contains can add a header,
//     a recipient, or a second message.
package email
