// What the token that the page was opened with may do.

let session = { roles: [] };

// hold takes what GET /v1/session says. It returns whether name or roles are others than before.
export function hold(now) {
  const isNews = session.name !== now.name || session.roles.join() !== now.roles.join();
  session = now;
  return isNews;
}

export const may = (role) => session.roles.includes(role);

// lacks says why something can't be done, to stand beside it.
export const lacks = (role) => `This needs the role ${role}; the token ${session.name} has: ${session.roles.join(", ")}.`;

// whose is who is signed in, null where no token is needed.
export const whose = () => (session.name ? { name: session.name, roles: session.roles } : null);
