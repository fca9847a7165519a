/** Who asks: by the token that was given in this tab, or by nothing where the server answers to its own machine only. */
import { useQuery, useQueryClient } from "@tanstack/react-query";
import { createContext, type ReactNode, useContext, useId, useState } from "react";
import { api, keepToken, type Me, Problem, tokenNow } from "./api";
import { Loading, Trouble } from "./ui";

interface SessionValue extends Me {
  /** Whether this one may replay, discard and restore. */
  readonly mayChange: boolean;
  /** Forgets the token; undefined where there is none. */
  readonly signOut: (() => void) | undefined;
}
const Context = createContext<SessionValue | undefined>(undefined);

export const useSession = (): SessionValue => {
  const value = useContext(Context);
  if (value === undefined) throw new Error("There is no session around it.");
  return value;
};

export const Session = ({ children }: { readonly children: ReactNode }) => {
  const queries = useQueryClient();
  const { data, error, refetch } = useQuery({
    queryKey: ["me"],
    queryFn: () => api.me(),
    staleTime: Number.POSITIVE_INFINITY,
    // Until it is there: a page that was opened too early comes by itself.
    refetchInterval: ({ state }) =>
      state.error instanceof Problem && ![401, 429].includes(state.error.status) && state.data === undefined
        ? 3000
        : false,
  });
  const enter = (token: string | null) => {
    keepToken(token);
    queries.clear();
    return refetch();
  };
  if (error instanceof Problem && (error.status === 401 || (error.status === 429 && data === undefined))) {
    const refused = tokenNow() === null ? undefined : error.status === 401 ? unknownToken : error.message;
    return <SignIn refused={refused} onToken={enter} />;
  }
  if (data === undefined) {
    return <main className="alone">{error === null ? <Loading what="who you are" /> : <Trouble error={error} />}</main>;
  }
  const value: SessionValue = {
    ...data,
    mayChange: data.role !== "viewer",
    signOut: tokenNow() === null ? undefined : () => enter(null),
  };
  return <Context value={value}>{children}</Context>;
};

const unknownToken = "The token is not known, or it has expired.";

const SignIn = ({
  onToken,
  refused,
}: {
  readonly refused: string | undefined;
  readonly onToken: (token: string) => unknown;
}) => {
  const [token, setToken] = useState("");
  const id = useId();
  return (
    <main className="alone">
      <form
        className="card sign-in"
        onSubmit={(event) => {
          event.preventDefault();
          if (token.trim() !== "") onToken(token.trim());
        }}
      >
        <h1>Dead letters</h1>
        <label htmlFor={id}>Your token</label>
        <input
          id={id}
          type="password"
          autoComplete="off"
          value={token}
          aria-describedby={`${id}-help`}
          onChange={(event) => setToken(event.target.value)}
        />
        <p id={`${id}-help`} className="hint">
          <code>dlq token</code> makes one. It is kept in this tab only.
        </p>
        {refused === undefined ? null : (
          <p role="alert" className="problem">
            {refused}
          </p>
        )}
        <button type="submit" className="primary">
          Sign in
        </button>
      </form>
    </main>
  );
};
